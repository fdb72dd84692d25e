"""The expected catalog, asked for as a test's own role or as one with few rights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection
from tasks.core.schema.expected import Expected, expected_catalogs
from tasks.core.schema.migrations import Migration
from tests.integration.schemas import run, session_of


def make(conn: Connection, *migrations: Migration, cache: Path | None = None) -> Expected:
    return expected_catalogs(conn, migrations, "public", cache)


@pytest.fixture
def limited(conn: Connection, database: Address) -> Iterator[Connection]:
    run(conn, "CREATE EXTENSION vector")
    with session_of("limited Role", conn, database) as opened:
        yield opened
