"""Measuring an index beside another: which one a probe ran on, and what measuring costs those who search meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from tasks.core.errors import ReindexFailed
from tasks.core.operations.operation import operation
from tasks.core.postgres.connections import Connection, connect
from tasks.core.settings import Settings
from tasks.core.vectors import measure as measuring
from tasks.core.vectors.indexes import Column, hnsw_indexes, target_named, targets, working_name
from tasks.core.vectors.leftovers import find_leftovers
from tasks.core.vectors.measure import AS_IT_IS, DROPPED, HIDDEN, measure
from tasks.core.vectors.probes import Probe, WrongIndex, index_used, probing, take_probes
from tasks.core.vectors.reindex import rebuild
from tests.integration.reindex_fixtures import INDEX, graph, template, vectors
from tests.processes import until

pytestmark = pytest.mark.slow

__all__ = ["graph", "template", "vectors"]

SECOND = "second_idx"


@pytest.fixture
def column(graph: Settings, vectors: Connection) -> Column:
    """With a second valid index on it."""
    vectors.execute(f"CREATE INDEX {SECOND} ON code_embeddings USING hnsw (embedding vector_cosine_ops) WITH (m = 24)")
    return target_named(targets(vectors, graph), INDEX).column


@pytest.fixture
def probes(graph: Settings, vectors: Connection, column: Column) -> tuple[Probe, ...]:
    return take_probes(vectors, column, graph.reindex)


def oid(conn: Connection, name: str) -> int:
    row = conn.execute("SELECT %s::regclass::oid::bigint", (name,)).fetchone()
    assert row
    return int(row[0])


@contextmanager
def searching(settings: Settings) -> Iterator[list[tuple[float, set[str]]]]:
    """Searches without end beside the block: the seconds that each took, and the indexes of its plan. A search whose
    plan is not an index scan has an empty set.
    """
    assert settings.address is not None
    done, seen, failed = threading.Event(), [], []

    def work() -> None:
        try:
            with connect(settings.address, purpose="searches") as conn:  # type: ignore[arg-type]
                # Without these the planner reads a table so small; without an index it would read it with them, too.
                conn.execute("SET enable_seqscan = off; SET enable_sort = off")
                row = conn.execute("SELECT embedding::text FROM code_embeddings WHERE id = 77").fetchone()
                assert row
                statement = SQL(
                    "EXPLAIN (ANALYZE, FORMAT JSON) SELECT id FROM code_embeddings ORDER BY embedding <=> {} LIMIT 10"
                ).format(Literal(row[0]))
                while not done.is_set():
                    began = time.monotonic()
                    (plan,) = conn.execute(statement).fetchone() or (None,)
                    seen.append((time.monotonic() - began, set(names(plan[0]["Plan"]))))
        except psycopg.Error as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        until(lambda: bool(seen or failed), seconds=10)
        yield seen
    finally:
        done.set()
        thread.join()
    assert not failed


def names(node: dict[str, Any]) -> Iterator[str]:
    if "Order By" in node:
        yield node["Index Name"]
    for child in node.get("Plans", ()):
        yield from names(child)


def test_searches_are_never_without_an_index(graph: Settings) -> None:
    with searching(graph) as seen:
        with operation(graph, "reindex") as held:
            done = rebuild(held, INDEX, 24, 100)
        time.sleep(0.2)
    assert done.left is None
    assert len(seen) > 100
    assert all(used for _, used in seen)
    assert max(seconds for seconds, _ in seen) < 5


def test_hidden_in_a_transaction_nobody_else_notices(
    graph: Settings, vectors: Connection, column: Column, probes: tuple[Probe, ...]
) -> None:
    with searching(graph) as seen:
        figures = measure(vectors, column, SECOND, probes, graph.reindex, others=[(oid(vectors, INDEX), INDEX)])
    assert figures
    assert (figures.how, figures.recall.probes) == (HIDDEN, 20)
    assert all(used for _, used in seen)
    assert all(index.valid for index in hnsw_indexes(vectors, graph))


def test_dropped_in_short_transactions_searches_wait_and_go_on(
    graph: Settings, vectors: Connection, column: Column, probes: tuple[Probe, ...]
) -> None:
    before = oid(vectors, INDEX)
    with searching(graph) as seen:
        figures = measure(vectors, column, SECOND, probes, graph.reindex, others=[(before, INDEX)], superuser=False)
    assert figures
    assert (figures.how, figures.recall.probes) == (DROPPED, 20)
    assert figures.filtered
    assert figures.filtered.probes == 20
    assert oid(vectors, INDEX) == before
    assert all(used for _, used in seen)
    # Our wait for the lock, during which readers queue behind us, and our hold of it: 300 ms each.
    assert max(seconds for seconds, _ in seen) < 2, "and what a busy machine adds"


def test_where_the_lock_is_never_to_be_had_it_gives_up(
    graph: Settings, vectors: Connection, column: Column, probes: tuple[Probe, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_ROUNDS", 2)
    assert graph.address is not None
    with connect(graph.address, purpose="reader", autocommit=False) as reader:
        reader.execute("SELECT count(*) FROM code_embeddings")
        with pytest.raises(ReindexFailed, match="other transactions use the table all the time"):
            measure(vectors, column, SECOND, probes, graph.reindex, others=[(1, INDEX)], superuser=False)
    assert oid(vectors, INDEX)


def test_a_probe_on_another_index_is_an_error_and_not_a_figure(
    graph: Settings, vectors: Connection, column: Column, probes: tuple[Probe, ...]
) -> None:
    with probing(vectors, graph.reindex, "0.8.6"):
        used = index_used(vectors, column, probes[0])
    assert used in (INDEX, SECOND)
    other = SECOND if used == INDEX else INDEX
    with pytest.raises(WrongIndex, match=f"a probe meant for {other} ran on {used}"):
        measure(vectors, column, other, probes, graph.reindex)
    assert measure(vectors, column, str(used), probes, graph.reindex).how == AS_IT_IS  # type: ignore[union-attr]


def test_a_role_that_is_no_superuser_re_indexes(graph: Settings, vectors: Connection) -> None:
    role = "reindexer_" + graph.address.dbname[-8:]  # type: ignore[union-attr]
    vectors.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'narrow'")
    try:
        for statement in (
            f"GRANT CREATE ON DATABASE {graph.address.dbname} TO {role}",  # type: ignore[union-attr]
            f"GRANT CREATE ON SCHEMA public TO {role}",
            f"ALTER TABLE code_embeddings OWNER TO {role}",
            f"GRANT USAGE ON SCHEMA kg_ops TO {role}",
            f"GRANT ALL ON ALL TABLES IN SCHEMA kg_ops TO {role}",
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA kg_ops TO {role}",
        ):
            vectors.execute(statement)
        assert graph.address is not None
        narrow = graph.address.model_copy(
            update={"user": role, "password": type(graph.address.password)("narrow")}  # type: ignore[misc, arg-type]
        )
        with operation(graph.model_copy(update={"address": narrow}), "reindex") as held:
            done = rebuild(held, INDEX)
        assert done.after
        assert done.after.how == DROPPED
        assert done.plan.notes[0].endswith("a quarter of effective_cache_size, which its administrator set")
    finally:
        vectors.execute(f"REASSIGN OWNED BY {role} TO kg; DROP OWNED BY {role}; DROP ROLE {role}")


def leave(conn: Connection, settings: Settings, name: str, *, valid: bool) -> None:
    """An index as an interrupted re-index leaves it."""
    conn.execute(
        SQL("CREATE INDEX {} ON code_embeddings USING hnsw (embedding vector_cosine_ops)").format(Identifier(name))
    )
    if not valid:
        conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", (name,))


def test_what_an_interrupted_run_left_goes_and_others_stay(graph: Settings, vectors: Connection) -> None:
    ours = [working_name(INDEX, "new", "00000001"), working_name(INDEX, "old", "00000001")]
    with operation(graph, "reindex") as held:
        held.write("re-index", "started", {"index": INDEX, "new": ours[0], "old": ours[1]})
    unknown = working_name(INDEX, "new", "00000002")
    leave(vectors, graph, ours[0], valid=False)
    leave(vectors, graph, ours[1], valid=True)
    leave(vectors, graph, unknown, valid=False)
    leave(vectors, graph, f"{INDEX}_ccnew", valid=False)
    found = {one.name: one.ours for one in find_leftovers(vectors, graph)}
    assert found == {ours[0]: True, ours[1]: True, unknown: False, f"{INDEX}_ccnew": False}
    with operation(graph, "reindex") as held:
        rebuild(held, INDEX)
    assert {index.name for index in hnsw_indexes(vectors, graph)} == {INDEX, unknown, f"{INDEX}_ccnew"}


def test_a_leftover_that_is_the_only_valid_index_stays(graph: Settings, vectors: Connection) -> None:
    name = working_name(INDEX, "old", "00000001")
    with operation(graph, "reindex") as held:
        held.write("re-index", "started", {"index": INDEX, "old": name, "new": "x"})
    vectors.execute(f"ALTER INDEX {INDEX} RENAME TO {name}")
    (left,) = find_leftovers(vectors, graph)
    assert (left.ours, left.why) == (False, "it is the only valid index on its column")
