"""A small tree of files, and a database with the tables to index it into."""

from __future__ import annotations

from pathlib import Path
from typing import Any, LiteralString

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.application.index import IndexResult
from tasks.core.postgres.connections import Connection
from tasks.core.schema.migrations import load_migrations
from tasks.core.settings import Settings

TREE = {
    "json/__init__.py": "'''JSON encoder and decoder.'''\nfrom .decoder import JSONDecoder\n",
    "json/decoder.py": "'''Parse JSON documents.'''\nimport re\n\n\nclass JSONDecoder:\n    document = None\n",
    "mail/smtp.py": "'''Send mail over SMTP.'''\nimport json\n\n\ndef send_mail(server, message): ...\n",
    "web/app.ts": "import { send } from './mail'\n",
    "README.md": "# A tree\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plant(tmp_path / "tree", TREE)


@pytest.fixture
def graph(conn: Connection, settings: Settings) -> Connection:
    """The tables as the first migration makes them."""
    migrate(conn, settings, "public")
    return conn


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def migrate(conn: Connection, settings: Settings, extension_schema: LiteralString) -> None:
    schema = Identifier(settings.database.schema_name)
    conn.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
    conn.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(extension_schema)))
    conn.execute(SQL("CREATE EXTENSION IF NOT EXISTS vector SCHEMA {}").format(Identifier(extension_schema)))
    # `extensions`: where a Supabase-shaped server has it already.
    conn.execute(SQL("SET search_path = {}, {}, extensions").format(schema, Identifier(extension_schema)))
    conn.execute(load_migrations(settings.migrations)[0].sql.encode())


def versions(conn: Connection) -> list[tuple[Any, ...]]:
    """Changes with every write to either table, whatever was written."""
    return conn.execute(
        "SELECT id, xmin::text, updated_at FROM code_embeddings"
        " UNION ALL SELECT id, xmin::text, updated_at FROM code_relationships ORDER BY 2, 1"
    ).fetchall()


def counts(result: IndexResult) -> tuple[int, int, int, int]:
    return result.seen, result.indexed, result.unchanged, result.removed
