"""`kg index` and `kg search` against a real pgvector: what is written, what is left alone, what is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import numpy as np
import pytest
from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.application.embeddings import OfflineEmbedder
from tasks.core.application.index import IndexResult, index
from tasks.core.application.search import search
from tasks.core.application.walk import Skipped
from tasks.core.errors import OperationRunning, OpsError, UsageError
from tasks.core.postgres.connections import Connection
from tasks.core.progress import Silent, reporting
from tasks.core.schema.migrations import load_migrations
from tasks.core.settings import Settings

if TYPE_CHECKING:
    from tasks.core.application.embeddings import Vectors

BATCH_FILES = OfflineEmbedder.batch
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


def rows(conn: Connection, statement: LiteralString) -> list[Any]:
    """One column."""
    return [row[0] for row in conn.execute(statement)]


def versions(conn: Connection) -> list[tuple[Any, ...]]:
    """Changes with every write to either table, whatever was written."""
    return conn.execute(
        "SELECT id, xmin::text, updated_at FROM code_embeddings"
        " UNION ALL SELECT id, xmin::text, updated_at FROM code_relationships ORDER BY 2, 1"
    ).fetchall()


def imports(conn: Connection, source: str) -> set[tuple[str, str]]:
    found = conn.execute(
        "SELECT target_file, target_entity FROM code_relationships"
        " WHERE source_file = %s AND relationship_type = 'imports'",
        [source],
    ).fetchall()
    assert len(found) == len(set(found))
    return {(target, entity) for target, entity in found}


def counts(result: IndexResult) -> tuple[int, int, int, int]:
    return result.seen, result.indexed, result.unchanged, result.removed


def test_a_tree_is_stored_with_all_its_columns(graph: Connection, settings: Settings, tree: Path) -> None:
    (tree / "odd.py").write_bytes(b"\xff\xfe")
    result = index(settings, tree)
    assert counts(result) == (6, 5, 0, 0)
    assert result.skipped == (Skipped("odd.py", "not UTF-8"),)
    assert result.relationships == 4
    path, sha256, preview, language, tokens, metadata, vector = graph.execute(
        "SELECT file_path, file_hash, content_preview, language, tokens_count, metadata, embedding::text"
        " FROM code_embeddings WHERE file_path = 'json/decoder.py'"
    ).fetchone() or pytest.fail("no row")
    text = TREE["json/decoder.py"]
    assert sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert (path, preview, language) == ("json/decoder.py", text, "python")
    assert tokens == 9
    assert metadata == {"embedder": "offline-hashing-1", "roots": [str(tree)]}
    assert np.array_equal(np.array(json.loads(vector), dtype=np.float32), OfflineEmbedder().embed([text], [path])[0])


def test_imports_lead_to_files_of_the_tree(graph: Connection, settings: Settings, tree: Path) -> None:
    index(settings, tree)
    assert imports(graph, "json/__init__.py") == {("json/decoder.py", "JSONDecoder")}
    assert imports(graph, "json/decoder.py") == {("re", "re")}
    assert imports(graph, "mail/smtp.py") == {("json/__init__.py", "json")}
    assert imports(graph, "web/app.ts") == {("./mail", "./mail")}


def test_a_second_run_writes_nothing(graph: Connection, settings: Settings, tree: Path) -> None:
    (tree / "odd.py").write_bytes(b"\xff\xfe")  # known only by reading it: must not pass for a new file
    index(settings, tree)
    before = versions(graph)
    result = index(settings, tree)
    assert counts(result) == (6, 0, 5, 0)
    assert result.relationships == 0
    assert versions(graph) == before


def test_a_changed_file_replaces_its_row_and_its_imports(graph: Connection, settings: Settings, tree: Path) -> None:
    index(settings, tree)
    plant(tree, {"mail/smtp.py": "import re\n\n\ndef receive_post(): ...\n"})
    assert counts(index(settings, tree)) == (5, 1, 4, 0)
    assert rows(graph, "SELECT content_preview FROM code_embeddings WHERE file_path = 'mail/smtp.py'") == [
        "import re\n\n\ndef receive_post(): ...\n"
    ]
    assert imports(graph, "mail/smtp.py") == {("re", "re")}
    assert [match.file_path for match in search(settings, "receive post")].count("mail/smtp.py") == 1


def test_a_file_that_is_gone_takes_its_rows_along(graph: Connection, settings: Settings, tree: Path) -> None:
    index(settings, tree)
    (tree / "json" / "decoder.py").unlink()
    (tree / "web" / "app.ts").write_bytes(b"\0")
    result = index(settings, tree)
    assert counts(result) == (4, 0, 3, 2)
    assert rows(graph, "SELECT file_path FROM code_embeddings ORDER BY 1") == [
        "README.md",
        "json/__init__.py",
        "mail/smtp.py",
    ]
    assert rows(graph, "SELECT DISTINCT source_file FROM code_relationships ORDER BY 1") == [
        "json/__init__.py",
        "mail/smtp.py",
    ]


def test_a_new_file_draws_the_imports_of_unchanged_ones(graph: Connection, settings: Settings, tree: Path) -> None:
    index(settings, tree)
    plant(tree, {"web/mail.ts": "export const send = 1\n"})
    assert counts(index(settings, tree)) == (6, 1, 5, 0)
    assert imports(graph, "web/app.ts") == {("web/mail.ts", "./mail")}
    (tree / "web" / "mail.ts").unlink()
    index(settings, tree)
    assert imports(graph, "web/app.ts") == {("./mail", "./mail")}


def test_two_trees_do_not_touch_each_other(graph: Connection, settings: Settings, tree: Path, tmp_path: Path) -> None:
    other = plant(tmp_path / "other", {"README.md": TREE["README.md"], "json/decoder.py": "other = 1\n"})
    index(settings, tree)
    index(settings, other)
    assert counts(index(settings, tree)) == (5, 0, 5, 0)
    same = "SELECT metadata -> 'roots' FROM code_embeddings WHERE file_path = 'README.md'"
    assert rows(graph, same) == [[str(tree), str(other)]]
    (tree / "README.md").unlink()
    (tree / "json" / "decoder.py").unlink()
    index(settings, tree)
    assert rows(graph, same) == [[str(other)]]
    assert rows(graph, "SELECT content_preview FROM code_embeddings WHERE file_path = 'json/decoder.py'") == [
        "other = 1\n"
    ]
    assert counts(index(settings, other)) == (2, 0, 2, 0)


class Stumbling(OfflineEmbedder):
    """Fails at the second batch, as an embedder behind a network may."""

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, texts: Sequence[str], paths: Sequence[str] | None = None) -> Vectors:
        self.calls += 1
        if self.calls == 2:
            raise OpsError("no more")
        return super().embed(texts, paths)


def test_an_interrupted_run_leaves_whole_batches_and_the_next_goes_on(
    graph: Connection, settings: Settings, tmp_path: Path
) -> None:
    files = {f"m{number:03}.py": f"import m{number + 1:03}\n" for number in range(BATCH_FILES + 3)}
    tree = plant(tmp_path / "many", files)
    with pytest.raises(OpsError, match="no more"):
        index(settings, tree, embedder=Stumbling())
    assert rows(graph, "SELECT count(*) FROM code_embeddings") == [BATCH_FILES]
    assert rows(graph, "SELECT count(*) FROM code_relationships") == [BATCH_FILES]
    assert counts(index(settings, tree)) == (BATCH_FILES + 3, 3, BATCH_FILES, 0)
    assert rows(graph, "SELECT count(*) FROM code_embeddings") == [len(files)]
    assert rows(graph, "SELECT count(DISTINCT (source_file, target_file)) - count(*) FROM code_relationships") == [0]


def test_one_run_at_a_time(graph: Connection, settings: Settings, tree: Path) -> None:
    graph.execute("SELECT pg_advisory_lock(27495, 3)")
    with pytest.raises(OperationRunning):
        index(settings, tree)
    assert rows(graph, "SELECT count(*) FROM code_embeddings") == [0]


def test_the_extension_and_the_tables_may_live_in_other_schemas(
    conn: Connection, settings: Settings, tree: Path
) -> None:
    database = settings.database.model_copy(update={"schema_name": "Know ledge"})
    elsewhere = settings.model_copy(update={"database": database})
    migrate(conn, elsewhere, "extensions")
    assert index(elsewhere, tree).indexed == 5
    assert search(elsewhere, "parse a json document")[0].file_path == "json/decoder.py"
    with pytest.raises(OpsError, match="are not in schema public"):
        search(settings, "parse a json document")


@pytest.mark.parametrize("metadata", ['{"embedder": "another-model"}', "{}", None])
def test_vectors_of_another_embedder_are_refused(
    graph: Connection, settings: Settings, tree: Path, metadata: str | None
) -> None:
    graph.execute(
        "INSERT INTO code_embeddings (file_path, file_hash, embedding, metadata)"
        " VALUES ('a', 'b', array_fill(1::real, ARRAY[1536])::vector, %s)",
        [metadata],
    )
    for attempt in (lambda: index(settings, tree), lambda: search(settings, "parse")):
        with pytest.raises(OpsError, match="not by offline-hashing-1") as caught:
            attempt()
        assert caught.value.hint
    assert rows(graph, "SELECT count(*) FROM code_embeddings") == [1]


def test_missing_tables_lead_to_deploy(conn: Connection, settings: Settings, tree: Path) -> None:
    for attempt in (lambda: index(settings, tree), lambda: search(settings, "parse")):
        with pytest.raises(OpsError) as caught:
            attempt()
        assert caught.value.hint == "kg deploy dev"


def test_a_path_that_is_no_folder_is_refused_before_anything_is_asked_of_the_server(settings: Settings) -> None:
    with pytest.raises(UsageError):
        index(settings, Path("/absent"))


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
    assert result.seconds < 60
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
