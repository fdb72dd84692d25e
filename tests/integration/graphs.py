"""A knowledge graph with rows in it, as a deploy leaves it: migrated, recorded in the ledger, filled; and its store."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from psycopg.sql import SQL, Identifier

from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.migrations import load_migrations
from tasks.core.settings import Settings

ROWS = 120


def deploy_graph(conn: Connection, settings: Settings, rows: int = ROWS) -> None:
    """Apply the first migration in the environment's schema, and write `rows` embeddings and a few relationships."""
    conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
    ledger.identity(conn)
    [migration, *_] = load_migrations(settings.migrations)
    schema = Identifier(settings.database.schema_name)
    with conn.transaction():
        conn.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
        conn.execute(SQL("SET LOCAL search_path = {}, public, extensions").format(schema))
        conn.execute(migration.sql.encode())
        ledger.record_applied(conn, migration)
        conn.execute(
            "INSERT INTO code_embeddings (file_path, file_hash, embedding, language) SELECT 'src/' || n, md5(n::text),"
            " (SELECT array_agg(sin(n * k)) FROM generate_series(1, 1536) AS k)::vector, 'python'"
            f" FROM generate_series(1, {rows}) AS n".encode()
        )
        conn.execute(
            "INSERT INTO code_relationships (source_file, target_file, relationship_type)"
            " SELECT 'src/' || n, 'src/' || n + 1, 'imports' FROM generate_series(1, 7) AS n"
        )


def files(settings: Settings) -> list[str]:
    """Everything in the store's folder, temporary files too."""
    folder = Path(settings.store_url.removeprefix("file://"))
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def with_section(settings: Settings, section: str, **changes: Any) -> Settings:
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=changes)})


def the_pg_dump() -> int:
    """Process id of our pg_dump."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = path.read_text().split()
            if words[1] == "(pg_dump)" and int(words[3]) == os.getpid():
                return int(words[0])
    raise AssertionError("no pg_dump runs")
