"""Tuning on a sample, and the pictures."""

from __future__ import annotations

import pytest

from tasks.core.errors import Refused, UsageError
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings
from tasks.core.vectors import pictures
from tasks.core.vectors.recall import Figures, Recall
from tasks.core.vectors.tune import best, tune
from tests.integration.reindex_fixtures import INDEX, graph, template, vectors
from tests.processes import until

__all__ = ["graph", "template", "vectors"]


def test_candidates_are_measured_and_nothing_is_left(graph: Settings, vectors: Connection) -> None:
    found = tune(graph, INDEX, [(4, 8), (16, 64)], sample=600)
    assert [(one.m, one.ef_construction, one.rows) for one in found] == [(4, 8, 600), (16, 64, 600)]
    assert found[0].recall <= found[1].recall <= 1
    assert all(one.build_seconds > 0 for one in found)
    assert all(one.size_bytes > 600 * 6144 for one in found)
    assert best(found, graph.reindex) in found
    # The server drops the sample when it has noticed that its session is over.
    until(
        lambda: vectors.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'kg_%%'").fetchone() == (0,),
        seconds=20,
    )
    picture = pictures.curve(found)
    assert picture
    assert picture.startswith(b"\x89PNG")


def test_the_budget_ends_it_after_a_candidate(graph: Settings) -> None:
    assert len(tune(graph, INDEX, [(4, 8), (16, 64)], sample=200, budget_seconds=0.0)) == 1


def test_a_table_with_too_few_vectors_is_refused(graph: Settings, vectors: Connection) -> None:
    vectors.execute("TRUNCATE code_embeddings")
    with pytest.raises(Refused, match="too few"):
        tune(graph, INDEX)


def test_impossible_candidates_are_refused(graph: Settings) -> None:
    with pytest.raises(UsageError, match="less than twice"):
        tune(graph, INDEX, [(32, 40)])


def test_before_and_after_is_a_picture() -> None:
    figures = Figures(INDEX, "as it is", Recall(0.9, 0.5, 20), None, 1.0, 2.0)
    picture = pictures.before_and_after(figures, figures)
    assert picture
    assert picture.startswith(b"\x89PNG")
    assert pictures.before_and_after(None, figures) is None
