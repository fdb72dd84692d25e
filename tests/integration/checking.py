"""What the tests of checks and verifications share: a report's lines, tables, and a role that may nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.migrations import apply, load_migrations
from tasks.core.schema.report import Report
from tasks.core.settings import Settings


def found(report: Report, name: str) -> str:
    return next(
        f"{each.status}: {each.detail}" + (f" ({each.remedy})" if each.remedy else "")
        for each in report.checks
        if each.name == name
    )


def failing(report: Report) -> set[str]:
    return {each.name for each in report.checks if each.status == "failed"}


def make_tables(conn: Connection, settings: Settings, *, record: bool = True) -> None:
    migration = load_migrations(settings.migrations)[0]
    if record:
        ledger.ensure(conn)
        ledger.identity(conn)
    write = (lambda conn: ledger.record_applied(conn, migration)) if record else (lambda conn: None)
    apply(conn, migration, settings.database, write)


@pytest.fixture
def role(conn: Connection, database: Address) -> Iterator[Address]:
    """A role without any privilege, and the address to enter with it."""
    name = f"plain_{uuid.uuid4().hex[:8]}"
    conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'plain'").format(Identifier(name)))
    yield database.model_copy(update={"user": name, "password": SecretStr("plain")})
    conn.execute(SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(Identifier(name)))
