"""`kg index` and `kg search` against a real pgvector: what is written, what is left alone, what is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import numpy as np
import pytest

from tasks.core.application.embeddings import OfflineEmbedder
from tasks.core.application.index import index
from tasks.core.application.search import search
from tasks.core.application.walk import Skipped
from tasks.core.errors import OperationRunning, OpsError, UsageError
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings
from tests.integration.trees import TREE, counts, graph, migrate, plant, tree, versions

__all__ = ["graph", "tree"]  # fixtures


if TYPE_CHECKING:
    from tasks.core.application.embeddings import Vectors

BATCH_FILES = OfflineEmbedder.batch


def rows(conn: Connection, statement: LiteralString) -> list[Any]:
    """One column."""
    return [row[0] for row in conn.execute(statement)]


def imports(conn: Connection, source: str) -> set[tuple[str, str]]:
    found = conn.execute(
        "SELECT target_file, target_entity FROM code_relationships"
        " WHERE source_file = %s AND relationship_type = 'imports'",
        [source],
    ).fetchall()
    assert len(found) == len(set(found))
    return {(target, entity) for target, entity in found}


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
