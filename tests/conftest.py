"""One PostgreSQL a process, one database a test."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.addresses import Address, parse_address
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.scratch import private_cluster
from tasks.core.settings import Settings, load_settings
from tests.databases import is_supabase, new_database, supabase_server
from tests.docker.container import container
from tests.processes import Person, python_of, server_of, until
from tests.workers import pytest_collection_modifyitems, pytest_configure, pytest_xdist_auto_num_workers

__all__ = ["pytest_collection_modifyitems", "pytest_configure", "pytest_xdist_auto_num_workers"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        default="embedded",
        help="where the tests' PostgreSQL is: embedded (default), docker, supabase, or a superuser's postgresql:// URL",
    )


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A superuser's address of the session's server; of a Supabase-shaped one, what a project's owner gets."""
    choice = str(request.config.getoption("--postgres"))
    if choice == "embedded":
        with private_cluster(tmp_path_factory.mktemp("postgres")) as address:
            yield address
    elif choice == "supabase":
        with supabase_server(tmp_path_factory.mktemp("postgres")) as address:
            yield address
    elif choice == "docker":
        with container() as address:
            yield address
    else:
        yield parse_address("--postgres", choice, "PGPASSWORD", os.environ.get("PGPASSWORD"))


@pytest.fixture
def database(postgres: Address, request: pytest.FixtureRequest) -> Iterator[Address]:
    """A fresh, empty database on the session's server, dropped afterwards with whatever is still connected."""
    word = re.sub(r"\W+", "_", request.node.name)[:40].lower()
    with new_database(postgres, f"test_{word}_{secrets.token_hex(3)}") as address:
        yield address


@pytest.fixture
def conn(database: Address) -> Iterator[Connection]:
    """A session in the test's database, each statement its own transaction."""
    with connect(database, purpose="test") as opened:
        yield opened


@pytest.fixture
def settings(database: Address, tmp_path: Path) -> Settings:
    """dev's settings, for the test's database, with home and store in the test's folder."""
    loaded = load_settings("dev", {"KG_HOME": str(tmp_path / "home")})
    changes: dict[str, object] = {"address": database, "store_url": (tmp_path / "store").as_uri()}
    if is_supabase(database):  # where a dump of all would meet the platform's tables, as production's settings know
        changes["database"] = loaded.database.model_copy(update={"scope": ("public", "kg_ops")})
    return loaded.model_copy(update=changes)


@pytest.fixture(params=["ourselves", "ordinary"])
def person(request: pytest.FixtureRequest) -> Iterator[Person]:
    """Ourselves, and under root also an ordinary user, each with a home of their own in the temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="kg-test-"))
    uid = None
    python: str | None = sys.executable
    try:
        if request.param == "ordinary":
            if os.geteuid() != 0:
                pytest.skip("we are an ordinary user already")
            uid = pwd.getpwnam("nobody").pw_uid
            python = python_of(uid)
            if python is None:
                pytest.skip("an ordinary user can run no Python with our packages here")
            os.chown(folder, uid, -1)
        elif os.geteuid() == 0:
            folder.chmod(0o755)
        someone = Person(python or "", folder / "home", uid)
        yield someone
        someone.finish()
        place = folder / "home" / "postgres"
        until(lambda: not server_of(place), seconds=10)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
