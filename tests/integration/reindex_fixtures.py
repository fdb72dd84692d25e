"""A deployed database with 2,000 clustered vectors, cloned for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.operations.migrate import migrate
from tasks.core.operations.operation import operation
from tasks.core.operations.plan import make_plan
from tasks.core.postgres.connections import Connection, connect
from tasks.core.settings import Settings, load_settings
from tasks.core.vectors.record import record_builds
from tests.integration.vector_data import fill

ROWS = 2000
INDEX = "code_embeddings_embedding_idx"


def deployed(address: Address, home: Path, rows: int) -> Settings:
    """Migrate the database and fill it; returns dev's settings for it, with floors that 2,000 rows can meet."""
    loaded = load_settings("dev", {"KG_HOME": str(home)})
    settings = loaded.model_copy(update={"address": address, "store_url": (home / "store").as_uri()})
    with operation(settings, "deploy") as held:
        with connect(address, purpose="test plan") as conn:
            plan = make_plan(conn, settings)
        migrate(held, plan, None)
        with connect(address, purpose="test fill") as conn:
            fill(conn, rows)
            conn.execute("ANALYZE code_embeddings")
        record_builds(held, ("001",))
    return settings


@pytest.fixture(scope="session")
def template(postgres: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    name = f"template_reindex_{secrets.token_hex(3)}"
    with connect(postgres, purpose="test set-up") as conn:
        conn.execute(SQL("CREATE DATABASE {} TEMPLATE template0").format(Identifier(name)))
    address = postgres.database(name)
    deployed(address, tmp_path_factory.mktemp("template"), ROWS)
    yield address
    with connect(postgres, purpose="test clean-up") as conn:
        conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture
def graph(template: Address, postgres: Address, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a database of this test's own, with the vectors in it."""
    name = f"test_reindex_{secrets.token_hex(4)}"
    with connect(postgres, purpose="test set-up") as conn:
        conn.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template.dbname)))
    loaded = load_settings("dev", {"KG_HOME": str(tmp_path / "home")})
    try:
        yield loaded.model_copy(update={"address": postgres.database(name), "store_url": (tmp_path / "s").as_uri()})
    finally:
        with connect(postgres, purpose="test clean-up") as conn:
            conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture
def vectors(graph: Settings) -> Iterator[Connection]:
    """A session in the graph's database."""
    assert graph.address is not None
    with connect(graph.address, purpose="test") as conn:
        yield conn
