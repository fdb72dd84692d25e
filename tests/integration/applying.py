"""A migration written on the spot, and what a database and an operator see of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.core.postgres.connections import Connection
from tasks.core.progress import Silent, reporting
from tasks.core.schema import ledger
from tasks.core.schema.migrations import Migration, load_migrations
from tasks.core.settings import DatabaseSettings

SETTINGS = DatabaseSettings(schema="public", lock_timeout=timedelta(milliseconds=150), lock_attempts=3)

Write = Callable[..., Migration]


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def noted(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def notes() -> Iterator[Notes]:
    reporter = Notes()
    with reporting(reporter):
        yield reporter


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a migration 001_test and loads it."""

    def write(up: str, down: str | None = "SELECT 1;") -> Migration:
        (tmp_path / "001_test.up.sql").write_text(up)
        if down is not None:
            (tmp_path / "001_test.down.sql").write_text(down)
        return load_migrations(tmp_path)[0]

    return write


def nothing(_: Connection) -> None:
    """A record that records nothing."""


def applied(migration: Migration) -> Callable[[Connection], None]:
    return lambda conn: ledger.record_applied(conn, migration)


def relations(conn: Connection) -> set[str]:
    rows = conn.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind <> 'c'")
    return {row[0] for row in rows}
