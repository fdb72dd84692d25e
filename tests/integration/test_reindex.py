"""Re-indexing by proof: what advice, verify and the gate say of a bad index, and what a re-index leaves."""

from __future__ import annotations

from datetime import timedelta

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.errors import Refused, ReindexFailed, UsageError
from tasks.core.operations.operation import operation
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema.report import CheckResult
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tasks.core.vectors.advice import Advice, advise
from tasks.core.vectors.gate import examine
from tasks.core.vectors.indexes import hnsw_indexes, target_named, targets
from tasks.core.vectors.measure import HIDDEN
from tasks.core.vectors.plan import plan_build
from tasks.core.vectors.reindex import Rebuilt, rebuild
from tests.integration.reindex_fixtures import INDEX, ROWS, graph, template, vectors

pytestmark = pytest.mark.slow

__all__ = ["graph", "template", "vectors"]


def reindex(settings: Settings, m: int | None = None, ef_construction: int | None = None) -> Rebuilt:
    with operation(settings, "reindex") as held:
        return rebuild(held, INDEX, m, ef_construction)


def changed(settings: Settings, **reindex: object) -> Settings:
    return settings.model_copy(update={"reindex": settings.reindex.model_copy(update=reindex)})


def one(settings: Settings) -> Advice:
    (advice,) = advise(settings)
    return advice


def finding(advice: Advice, what: str) -> tuple[str, str]:
    return next((line.verdict, line.figure) for line in advice.findings if line.what == what)


def verified(settings: Settings) -> list[str]:
    """What verification finds wrong."""
    return [check.detail for check in verify(settings, probes=False).checks if check.status == "failed"]


def gate_says(settings: Settings, conn: Connection) -> dict[str, CheckResult]:
    """The gate's answers for the index as it is, held against the plan of a re-index."""
    target = target_named(targets(conn, settings), INDEX)
    plan = plan_build(conn, settings, target)
    (found,) = hnsw_indexes(conn, settings)
    return {check.name: check for check in examine(found, plan, None, None, settings.reindex)}


def indexes(conn: Connection) -> list[tuple[str, bool, str]]:
    return conn.execute(
        "SELECT indexrelid::regclass::text, indisvalid AND indisready, pg_get_indexdef(indexrelid) FROM pg_index"
        " JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam WHERE amname = 'hnsw' ORDER BY 1"
    ).fetchall()  # type: ignore[return-value]


def test_a_good_index_may_stay(graph: Settings) -> None:
    advice = one(graph)
    assert (advice.rows, advice.rows_at_build, advice.reasons) == (ROWS, ROWS, ())
    assert advice.recall
    assert advice.recall.mean > 0.9
    assert advice.recall.probes == advice.filtered.probes == 20  # type: ignore[union-attr]
    assert advice.p50_ms is not None
    assert advice.p95_ms is not None
    assert advice.p50_ms <= advice.p95_ms < 100
    assert finding(advice, "bloat")[0] == "ok"
    assert {line.verdict for line in advice.findings} <= {"ok", "note"}


def test_an_invalid_index(graph: Settings, vectors: Connection) -> None:
    vectors.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", (INDEX,))
    advice = one(graph)
    assert finding(advice, "validity") == ("rebuild", "INVALID")
    assert "not valid" in advice.reasons[0]
    assert any("not valid" in detail for detail in verified(graph))
    assert gate_says(graph, vectors)["valid"].status == "failed"
    done = reindex(graph)
    assert (done.before, done.left) == (None, None)
    assert [valid for _, valid, _ in indexes(vectors)] == [True]
    assert verified(graph) == []


def test_a_wrong_operator_class(graph: Settings, vectors: Connection) -> None:
    vectors.execute(f"DROP INDEX {INDEX}")
    vectors.execute(f"CREATE INDEX {INDEX} ON code_embeddings USING hnsw (embedding vector_l2_ops)")
    advice = one(graph)
    assert finding(advice, "operator class") == ("rebuild", "vector_l2_ops")
    assert finding(advice, "recall@10")[0] == "unknown"
    assert any("vector_l2_ops" in detail or "vector_cosine_ops" in detail for detail in verified(graph))
    said = gate_says(graph, vectors)["operator class"]
    assert (said.status, "vector_l2_ops" in said.detail) == ("failed", True)
    assert reindex(graph).before is None
    assert "vector_cosine_ops" in indexes(vectors)[0][2]
    assert verified(graph) == []


def test_an_index_built_with_m_4(graph: Settings, vectors: Connection) -> None:
    vectors.execute(f"DROP INDEX {INDEX}")
    vectors.execute(
        f"CREATE INDEX {INDEX} ON code_embeddings USING hnsw (embedding vector_cosine_ops)"
        " WITH (m = 4, ef_construction = 8)"
    )
    advice = one(graph)
    assert finding(advice, "parameters") == ("rebuild", "m=4, ef_construction=8")
    assert any("the guide has m=16" in reason for reason in advice.reasons)
    assert advice.suggested == (16, 64)
    assert any("m=4" in detail for detail in verified(graph))
    assert gate_says(graph, vectors)["parameters"].status == "failed"
    done = reindex(graph)
    assert done.before
    assert done.after
    assert done.after.recall.mean >= done.before.recall.mean
    assert verified(graph) == []
    assert one(graph).reasons == ()


def test_growth_and_a_slow_p95_are_reasons(graph: Settings, vectors: Connection) -> None:
    vectors.execute("UPDATE kg_ops.index_build SET rows = 100")
    advice = one(changed(graph, slow_ms=0.001))
    assert finding(advice, "growth")[0] == finding(advice, "P50 / P95")[0] == "rebuild"
    assert "2,000 vectors, 100 at its build: more than 10 times as many" in advice.reasons


def test_a_recall_below_the_floor_asks_for_more_than_the_guide(graph: Settings) -> None:
    advice = one(changed(graph, recall_floor=1.1))
    assert finding(advice, "recall@10")[0] == "rebuild"
    assert advice.suggested == (32, 128)


def test_an_index_that_the_planner_passes_over(graph: Settings, vectors: Connection) -> None:
    dear = SQL("ALTER DATABASE {} SET random_page_cost = 100000").format(Identifier(vectors.info.dbname))
    vectors.execute(dear)
    verdict, figure = finding(one(graph), "planner")
    assert verdict == "ok"  # 2,000 rows
    assert figure.startswith("reads the whole table, ")
    done = reindex(graph)
    assert done.after
    assert not done.after.by_default


def test_zero_and_missing_vectors_are_left_out_and_counted(graph: Settings, vectors: Connection) -> None:
    vectors.execute(
        "INSERT INTO code_embeddings (file_path, file_hash, embedding) VALUES ('none', '1', NULL),"
        " ('zero', '2', array_fill(0::real, ARRAY[1536])::vector)"
    )
    advice = one(graph)
    assert finding(advice, "not indexed") == ("note", "1 without a vector, 1 of length zero")
    assert advice.recall
    assert advice.recall.mean > 0.9


def test_somebodys_own_index_is_told_of_and_left_alone(graph: Settings, vectors: Connection) -> None:
    vectors.execute("CREATE INDEX own ON code_embeddings USING hnsw (embedding vector_l2_ops) WITH (m = 4)")
    ours, own = advise(graph)
    assert (ours.name, ours.of_revision, own.name, own.of_revision) == (INDEX, True, "own", False)
    assert own.reasons == ours.reasons == ()


def test_a_reindex_leaves_the_new_index_its_ledger_row_and_nothing_else(graph: Settings, vectors: Connection) -> None:
    vectors.execute(f"COMMENT ON INDEX {INDEX} IS 'kept'")
    before = vectors.execute("SELECT %s::regclass::oid", (INDEX,)).fetchone()
    done = reindex(graph, 24, 100)
    ((name, valid, definition),) = indexes(vectors)
    assert (name, valid) == (INDEX, True)
    assert "m='24', ef_construction='100'" in definition
    assert vectors.execute("SELECT %s::regclass::oid", (INDEX,)).fetchone() != before
    assert vectors.execute("SELECT obj_description(%s::regclass, 'pg_class')", (INDEX,)).fetchone() == ("kept",)
    assert done.after
    assert done.after.how == HIDDEN
    assert [check.status for check in done.checks] == ["ok"] * 8
    assert done.built.settings["maintenance_work_mem"] == "64MB"
    assert done.built.settings["lock_timeout"] == "0"
    row = vectors.execute(
        "SELECT rows, parameters, recall_mean, p95_ms, seconds > 0 FROM kg_ops.index_build ORDER BY id DESC LIMIT 1"
    ).fetchone()
    chosen = {"m": 24, "ef_construction": 100, "by": "re-index"}
    assert row == (ROWS, chosen, done.after.recall.mean, done.after.p95_ms, True)
    assert vectors.execute(
        "SELECT step, state FROM kg_ops.journal WHERE step = 're-index' ORDER BY sequence"
    ).fetchall() == [("re-index", "started"), ("re-index", "done")]


def test_verify_accepts_what_a_reindex_chose_and_nothing_set_by_hand(graph: Settings, vectors: Connection) -> None:
    reindex(graph, 24, 100)
    assert verified(graph) == []
    vectors.execute(f"ALTER INDEX {INDEX} SET (m = 25)")
    assert any("m=25" in detail for detail in verified(graph))


def test_a_shut_gate_leaves_the_old_index(graph: Settings, vectors: Connection) -> None:
    before = vectors.execute("SELECT %s::regclass::oid", (INDEX,)).fetchone()
    with pytest.raises(ReindexFailed, match="P95") as failed:
        reindex(changed(graph, p95_factor=1.0, p95_margin_ms=-10.0))
    assert "the old index serves on" in (failed.value.hint or "")
    assert [name for name, _, _ in indexes(vectors)] == [INDEX]
    assert vectors.execute("SELECT %s::regclass::oid", (INDEX,)).fetchone() == before
    assert vectors.execute("SELECT state FROM kg_ops.operation ORDER BY started_at DESC LIMIT 1").fetchone() == (
        "failed",
    )


def test_a_new_index_that_finds_less_is_not_let_in(graph: Settings, vectors: Connection) -> None:
    with pytest.raises(ReindexFailed, match="recall"):
        reindex(changed(graph, recall_floor=1.0, ef_search=10), 2, 4)
    assert "m='16'" in indexes(vectors)[0][2]


def test_a_missing_index_is_built(graph: Settings, vectors: Connection) -> None:
    vectors.execute(f"DROP INDEX {INDEX}")
    advice = one(graph)
    assert finding(advice, "index") == ("rebuild", "missing")
    reindex(graph)
    assert [name for name, _, _ in indexes(vectors)] == [INDEX]
    assert verified(graph) == []


def test_an_empty_table_passes_the_gate_unmeasured(graph: Settings, vectors: Connection) -> None:
    vectors.execute("TRUNCATE code_embeddings")
    assert one(graph).recall is None
    done = reindex(graph)
    assert {check.name for check in done.checks if check.status == "skipped"} == {
        "recall",
        "worst probe",
        "recall in a language",
        "P95",
    }


def test_too_little_memory_is_said_before_and_noticed_during(graph: Settings) -> None:
    done = reindex(changed(graph, maintenance_work_mem_mb=2))
    assert not done.plan.fits
    assert done.plan.maintenance_work_mem == 2 * 2**20
    assert any("halfvec(1536)" in choice for choice in done.plan.choices)
    assert any("maintenance_work_mem_mb = " in choice for choice in done.plan.choices)
    assert "no longer fits" in done.built.outgrown
    assert done.after  # slower, but right


def test_a_build_that_would_outlast_its_limit_is_refused(graph: Settings, vectors: Connection) -> None:
    from tests.integration.vector_data import fill

    vectors.execute(f"DROP INDEX {INDEX}")
    fill(vectors, 1500, seed=8)
    with pytest.raises(Refused, match="would last about"):
        reindex(changed(graph, build_timeout=timedelta(milliseconds=10)))
    assert indexes(vectors) == []


def test_it_waits_no_longer_than_it_may_and_names_for_whom(graph: Settings, vectors: Connection) -> None:
    assert graph.address is not None
    with connect(graph.address, purpose="old snapshot", autocommit=False) as older:
        older.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        older.execute("SELECT 1")
        pid = older.info.backend_pid
        with pytest.raises(ReindexFailed, match=f"waited longer than 1 s for pid {pid} "):
            reindex(changed(graph, blocked_timeout=timedelta(seconds=1)))
    assert [name for name, _, _ in indexes(vectors)] == [INDEX]


@pytest.mark.parametrize(("m", "ef_construction"), [(1, 64), (101, 400), (16, 20), (16, 1001)])
def test_impossible_parameters_are_refused_before_anything(
    graph: Settings, vectors: Connection, m: int, ef_construction: int
) -> None:
    with pytest.raises(UsageError):
        reindex(graph, m, ef_construction)
    assert vectors.execute("SELECT count(*) FROM kg_ops.journal WHERE step = 're-index'").fetchone() == (0,)


def test_an_unknown_index_is_refused_with_the_names_there_are(graph: Settings) -> None:
    with pytest.raises(UsageError, match="no vector index 'nothing'") as refused, operation(graph, "reindex") as held:
        rebuild(held, "nothing")
    assert INDEX in (refused.value.hint or "")
