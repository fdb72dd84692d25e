"""What the tests of the schema room share: the migrations, made in a database, and compared with the expectation."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.sql import SQL, Identifier, Literal
from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema.catalog import read_catalog
from tasks.core.schema.compare import Difference, compare
from tasks.core.schema.expected import Expected, expected_catalogs
from tasks.core.schema.migrations import Migration, load_migrations
from tasks.core.settings import CHECKOUT
from tests.databases import new_database

MIGRATIONS = load_migrations(CHECKOUT / "sql" / "migrations")
HAND_RUN = Path(__file__).parent / "hand_run" / "create_tables.sql"


@contextmanager
def shared_session(postgres: Address, *scripts: str) -> Iterator[Connection]:
    """A session in a database of its own where `scripts` ran, for tests that each roll back what they do."""
    with (
        new_database(postgres, f"test_shared_{secrets.token_hex(4)}") as address,
        connect(address, purpose="test") as conn,
    ):
        run(conn, *scripts)
        yield conn


@contextmanager
def session_of(name: str, conn: Connection, database: Address) -> Iterator[Connection]:
    """A session of a new role that may do nothing in particular; the role and what it got are gone afterwards."""
    role, password = Identifier(name), secrets.token_hex(8)
    conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, Literal(password)))
    try:
        address = database.model_copy(update={"user": name, "password": SecretStr(password)})
        with connect(address, purpose="test") as opened:
            yield opened
    finally:
        conn.execute(SQL("DROP OWNED BY {}").format(role))
        conn.execute(SQL("DROP ROLE {}").format(role))


def run(conn: Connection, *statements: str) -> None:
    for statement in statements:
        conn.execute(SQL(statement))


def migrate(conn: Connection, schema: str = "public", migrations: tuple[Migration, ...] = MIGRATIONS[:1]) -> None:
    """Run the up scripts in `schema`, which is made where it does not exist."""
    run(conn, SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(schema)).as_string(conn))
    with conn.transaction():
        run(conn, SQL("SET LOCAL search_path = {}, public").format(Identifier(schema)).as_string(conn))
        run(conn, *(migration.sql for migration in migrations))


def migrations_of(folder: Path, *scripts: str) -> tuple[Migration, ...]:
    """The project's first migration, then one for each of `scripts`."""
    folder.mkdir(exist_ok=True)
    for path in (MIGRATIONS[0].up, MIGRATIONS[0].down):
        assert path is not None
        (folder / path.name).write_bytes(path.read_bytes())
    for number, script in enumerate(scripts, start=2):
        (folder / f"{number:03d}_change_something.up.sql").write_text(script)
        (folder / f"{number:03d}_change_something.down.sql").write_text("SELECT 1;")
    return load_migrations(folder)


def expectation(conn: Connection, migrations: tuple[Migration, ...] = MIGRATIONS[:1]) -> Expected:
    return expected_catalogs(conn, migrations, "public")


def differences(conn: Connection, expected: Expected, schema: str = "public") -> tuple[Difference, ...]:
    """Between the newest revision and what `schema` holds."""
    newest = list(expected.catalogs.values())[-1]
    return compare(newest, read_catalog(conn, schema, expected.scope))
