"""Settings of somebody with a key to an embeddings API, a tree to index, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tasks.core.postgres.connections import Connection
from tasks.core.progress import Silent
from tasks.core.settings import Settings
from tests.embeddings_server import KEY, EmbeddingsServer, embeddings_server
from tests.integration.graphs import deploy_graph

PRICE = 0.02e-6  # USD a token of text-embedding-3-small
FILES = 40  # two calls


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddingsServer]:
    with embeddings_server() as server:
        yield server


@pytest.fixture
def api(running: EmbeddingsServer) -> EmbeddingsServer:
    """Without faults, and asked nothing yet."""
    running.faults.clear()
    running.calls.clear()
    running.lasting, running.asked = "", 0
    running.headers = {"retry-after-ms": "20"}
    return running


@pytest.fixture
def keyed(settings: Settings, conn: Connection, api: EmbeddingsServer) -> Settings:
    """Settings of somebody with a key, on a database with the tables."""
    deploy_graph(conn, settings, rows=0)
    application = settings.application.model_copy(update={"embedding_attempts": 3})
    return settings.model_copy(
        update={"openai_key": SecretStr(KEY), "openai_base_url": api.url, "application": application}
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(FILES - 2):
        (root / f"m{number:02}.py").write_text(f"def function_{number}(): ...\n")
    (root / "smtp.py").write_text("'''Send mail over SMTP.'''\n")
    (root / "empty.py").write_text("")
    return root


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)


def stored(conn: Connection) -> int:
    """Rows, all of which must have a vector of length one that the API's model made."""
    row = conn.execute(
        "SELECT count(*), count(*) FILTER (WHERE abs(vector_norm(embedding) - 1) < 1e-5"
        " AND metadata ->> 'embedder' = 'text-embedding-3-small') FROM code_embeddings"
    ).fetchone()
    assert row is not None
    assert row[0] == row[1]
    return int(row[0])


def spent(conn: Connection) -> tuple[int, int, float]:
    """Calls, tokens, and USD of today."""
    row = conn.execute(
        "SELECT api_calls_count, tokens_used, estimated_cost FROM embedding_cache_stats"
        " WHERE date = (now() AT TIME ZONE 'UTC')::date"
    ).fetchone()
    return row or (0, 0, 0.0)


def changed(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update={"application": settings.application.model_copy(update=changes)})
