"""`kg search`: what is found in an indexed tree, and in the standard library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg.sql import SQL

from sql import query
from tasks.core.application.index import index
from tasks.core.application.search import search
from tasks.core.errors import UsageError
from tasks.core.postgres.connections import Connection
from tasks.core.progress import Silent, reporting
from tasks.core.settings import Settings

if TYPE_CHECKING:
    pass

from tests.integration.trees import TREE, counts, graph, tree, versions

__all__ = ["graph", "tree"]  # fixtures


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)


def test_an_empty_table_is_said_to_be_empty(graph: Connection, settings: Settings) -> None:
    with reporting(listener := Listener()):
        assert search(settings, "parse") == ()
    assert listener.notes == ["nothing is indexed yet: kg index dev PATH"]


def test_search_gives_the_nearest_first_within_a_language(graph: Connection, settings: Settings, tree: Path) -> None:
    index(settings, tree)
    before = versions(graph)
    found = search(settings, "send mail over smtp", limit=3)
    assert found[0].file_path == "mail/smtp.py"
    assert found[0].preview == TREE["mail/smtp.py"]
    assert len(found) == 3
    assert [match.similarity for match in found] == sorted((match.similarity for match in found), reverse=True)
    assert [match.file_path for match in search(settings, "mail", language="typescript")] == ["web/app.ts"]
    assert search(settings, "mail", language="cobol") == ()
    assert versions(graph) == before


@pytest.mark.parametrize(("text", "limit"), [("", 10), (" \n", 10), ("mail", 0), ("mail", 501)])
def test_a_question_that_is_none_is_refused(settings: Settings, text: str, limit: int) -> None:
    with pytest.raises(UsageError):
        search(settings, text, limit)


@pytest.mark.slow
def test_the_standard_library(graph: Connection, settings: Settings) -> None:
    """Every file of it within a minute, and each question's own module first."""
    library = Path(json.__file__).parents[1]
    result = index(settings, library)
    assert result.indexed > 1000
    assert result.relationships > 5000
    assert result.seconds < 600  # 14 s on two idle cores
    assert counts(index(settings, library)) == (result.seen, 0, result.indexed, 0)
    found = [match.file_path for match in search(settings, "parse a json document")]
    assert {path.partition("/")[0] for path in found[:3]} == {"json"}
    for question, module in (
        ("compress data with gzip", "gzip.py"),
        ("parse command line arguments", "argparse.py"),
        ("send an email over smtp", "smtplib.py"),
        ("hash a password sha256", "hashlib.py"),
        ("spawn a subprocess", "subprocess.py"),
    ):
        assert search(settings, question, limit=1)[0].file_path == module
    assert_index_can_serve(graph)


def assert_index_can_serve(graph: Connection) -> None:
    """Two thousand rows may rightly be scanned: what counts is that the question is one the index can answer."""
    with graph.transaction():
        graph.execute(query("tune_search"), {"candidates": "200", "iterative": True})
        graph.execute("SET LOCAL enable_seqscan = off")
        asked = {"vector": str([1.0] * 1536), "language": None, "limit": 10, "unnamed": ""}
        plan = graph.execute(SQL("EXPLAIN ") + query("nearest_files"), asked).fetchall()
    assert any("using code_embeddings_embedding_idx" in line for (line,) in plan)
