"""A database at the newest revision, with a few rows in it."""

from __future__ import annotations

import pytest

from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.migrations import apply, load_migrations
from tasks.core.settings import Settings

TABLES = "code_embeddings, code_patterns, code_relationships, embedding_cache_stats"


@pytest.fixture
def deployed(conn: Connection, settings: Settings) -> Settings:
    """dev's settings for a database at the newest revision, with a few rows in it."""
    deploy(conn, settings)
    conn.execute(
        "INSERT INTO code_embeddings (file_path, file_hash, embedding)"
        " SELECT 'f' || i, 'h' || i, array_fill(random()::real, ARRAY[1536])::vector FROM generate_series(1, 20) i"
    )
    conn.execute("INSERT INTO embedding_cache_stats (date) VALUES ('2026-01-01'), ('2026-01-02')")
    return settings


def deploy(conn: Connection, settings: Settings) -> None:
    ledger.ensure(conn)
    for migration in load_migrations(settings.migrations):
        apply(conn, migration, settings.database, lambda conn, one=migration: ledger.record_applied(conn, one))  # type: ignore[misc]
