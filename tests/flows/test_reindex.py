"""The reindex flow, with the real engine: what it builds, what it returns, and what lies on its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.documents import ReindexDocument
from tasks.core.errors import UsageError
from tasks.core.markdown import inline
from tasks.core.postgres.connections import Connection
from tasks.core.progress import reporting
from tasks.core.settings import Settings
from tests.flows.test_artifacts import Seen, newest
from tests.integration.vector_data import fill
from tests.terminal import kg

INDEX = "code_embeddings_embedding_idx"


def reindex(**parameters: object) -> ReindexDocument:
    from flows.reindex import reindex as flow

    return flow(environment="dev", **parameters)  # type: ignore[arg-type, return-value]


@pytest.fixture
def filled(dev: Settings, conn: Connection) -> Connection:
    """Deployed, with 400 vectors of which the ledger's build knew nothing."""
    from flows.deploy import deploy

    deploy(environment="dev")
    fill(conn, 400)
    return conn


def artifact(key: str) -> str:
    return str(newest(key).data)


def test_advice_changes_nothing(filled: Connection) -> None:
    before = filled.execute("SELECT count(*) FROM kg_ops.operation").fetchone()
    document = reindex()
    assert (document.applied, document.rebuilt, document.tuned) == (False, (), ())
    assert document.indexes[0].name == INDEX
    assert document.indexes[0].advice == "keep"
    assert filled.execute("SELECT count(*) FROM kg_ops.operation").fetchone() == before
    assert "recall@10" in artifact("reindex-dev")


def test_what_needs_no_reindex_is_built_only_when_named(filled: Connection) -> None:
    assert reindex(apply=True).rebuilt == ()
    terminal = Seen()
    with reporting(terminal):
        document = reindex(apply=True, index=INDEX, m=24, ef_construction=96, tune=True)
    (done,) = document.rebuilt
    assert (done.name, done.parameters, done.left) == (INDEX, {"m": 24, "ef_construction": 96}, None)
    assert done.seconds_without_index == 0.0
    assert done.after
    assert done.after.recall.mean >= 0.9
    assert {item.status for item in done.checks} == {"ok"}
    assert len(document.tuned) > 1
    assert sum(one.best for one in document.tuned) == 1
    (building,) = [title for key, title in terminal.work.items() if key.startswith("build-")]
    bar = newest("progress-build-dev")
    assert (bar.description, float(bar.data)) == (inline(building), 100.0), "the same events feed both"
    reindexed = artifact("reindexed-dev-code-embeddings-embedding-idx")
    assert "| recall@10, mean |" in reindexed
    assert "data:image/png;base64," in reindexed
    assert "data:image/png;base64," in artifact("tuned-dev-code-embeddings-embedding-idx")
    assert filled.execute("SELECT kind, state FROM kg_ops.operation ORDER BY started_at DESC LIMIT 1").fetchone() == (
        "reindex",
        "done",
    )


def test_an_unknown_index_is_refused(filled: Connection) -> None:
    with pytest.raises(UsageError, match="no vector index 'other'"):
        reindex(apply=True, index="other")


def test_the_command_line(filled: Connection, variables: dict[str, str], tmp_path: Path) -> None:
    surroundings = {**variables, "PREFECT_HOME": str(tmp_path / "prefect")}
    refused = kg("reindex", "dev", "--advise", "--apply", **surroundings)
    assert (refused.returncode, "exclude each other" in refused.stderr) == (2, True)
    assert kg("reindex", "dev", "--index", "other", **surroundings).returncode == 2
    advice = kg("reindex", "dev", "--advise", **surroundings)
    assert advice.returncode == 0, advice.stderr
    assert f"{INDEX} on code_embeddings.embedding:" in advice.stdout
    assert "keep it" in advice.stdout
    words = ("--index", INDEX, "--m", "20", "--ef-construction", "80")
    done = kg("reindex", "dev", "--apply", *words, **surroundings)
    assert done.returncode == 0, done.stderr
    assert "with m=20, ef_construction=80" in done.stdout
    assert "searches always had an index" in done.stdout
    assert "plan: code_embeddings_embedding_idx: m=20" in done.stderr
