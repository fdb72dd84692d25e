"""Login roles for a test: without any right, or the owner of its database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings

MakeRole = Callable[[str], Address]


@pytest.fixture
def role(conn: Connection, database: Address) -> Iterator[MakeRole]:
    """Makes login roles without any privilege; they and what they own are gone afterwards."""
    made: list[str] = []

    def make(word: str) -> Address:
        name = f"{word}_{uuid4().hex[:8]}"
        conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'plain'").format(Identifier(name)))
        made.append(name)
        return database.model_copy(update={"user": name, "password": SecretStr("plain")})

    yield make
    for name in made:
        conn.execute(SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(Identifier(name)))
    for name in made:
        conn.execute(SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(Identifier(name)))


@pytest.fixture
def owner(conn: Connection, database: Address, role: MakeRole) -> Address:
    """Owns the database; may make no role, no database and no extension."""
    address = role("owner")
    conn.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(Identifier(database.dbname), Identifier(address.user)))
    if conn.info.server_version < 150000:
        conn.execute(SQL("ALTER SCHEMA public OWNER TO {}").format(Identifier(address.user)))
    return address


@pytest.fixture
def owned(settings: Settings, owner: Address) -> Settings:
    return settings.model_copy(update={"address": owner})


def install_vector(conn: Connection, schema: str = "public") -> None:
    """As the administrator does: in a schema that everybody may use."""
    conn.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(schema)))
    conn.execute(SQL("CREATE EXTENSION vector SCHEMA {}").format(Identifier(schema)))
    conn.execute(SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC").format(Identifier(schema)))
