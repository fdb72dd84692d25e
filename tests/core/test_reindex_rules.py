"""The pure part of re-indexing: memory, the guide's table, recall, what is built and what it is expected to take."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import UsageError
from tasks.core.settings import ReindexSettings
from tasks.core.vectors.advice import Advice
from tasks.core.vectors.choice import Choice, choose
from tasks.core.vectors.findings import Measured, findings
from tasks.core.vectors.gate import examine
from tasks.core.vectors.guide import check_parameters, guide_range, stronger, suggested
from tasks.core.vectors.indexes import Column, HnswIndex, Target, is_working_name, working_name
from tasks.core.vectors.leftovers import classify
from tasks.core.vectors.machine import Machine, memory_limit, parallel_is_safe, workers_for
from tasks.core.vectors.memory import build_memory_bytes, index_bytes, largest_m
from tasks.core.vectors.plan import BuildPlan, choices, extrapolated
from tasks.core.vectors.recall import Figures, Recall, percentiles, recall_of, summary
from tasks.core.vectors.watch import remaining_seconds

MB, GB = 2**20, 2**30

rows = st.integers(0, 10_000_000)
dimensions = st.integers(1, 2000)
ms = st.integers(2, 100)
efs = st.integers(4, 1000)

WANTED = ReindexSettings()  # type: ignore[call-arg]
MACHINE = Machine(
    available=8 * GB,
    cpus=4,
    shared_memory=4 * GB,
    maintenance_work_mem=64 * MB,
    shared_buffers=128 * MB,
    effective_cache_size=4 * GB,
    most_workers=8,
    max_parallel_maintenance_workers=2,
)
FOUND = HnswIndex(
    *("i", 1, "t", "c", "vector", 3, "vector_cosine_ops", True, 1, 16, 64),
    partial=False,
    comment=None,
    tablespace=None,
    being_built=False,
    rows_at_build=None,
)
ADVICE = Advice("a", "t", "c", 20_000, 1_000, 1, True, 16, 64, (16, 64), 1, 1.0, 2.0, ("grown",))


def test_the_measured_figures_of_the_formula() -> None:
    assert build_memory_bytes(1, 1536, 16) == pytest.approx(6.8e3, rel=0.01)
    assert build_memory_bytes(1_000_000, 1536, 16) / GB == pytest.approx(6.4, rel=0.02)


@given(rows, dimensions, ms)
def test_memory_grows_with_rows_dimensions_and_m(rows: int, dimensions: int, m: int) -> None:
    here = build_memory_bytes(rows, dimensions, m)
    assert here >= rows * (4 * dimensions + 32 * m)
    assert build_memory_bytes(rows + 1, dimensions, m) > here
    assert build_memory_bytes(rows, dimensions + 1, m) >= here
    if m > 2:
        assert build_memory_bytes(rows, dimensions, m + 1) >= here
    assert build_memory_bytes(rows, dimensions, m, bytes_each=2) <= here


@given(st.integers(1, 10_000_000), dimensions, st.integers(0, 64 * GB))
def test_the_largest_m_fits_and_the_next_does_not(rows: int, dimensions: int, available: int) -> None:
    m = largest_m(rows, dimensions, available)
    if m is None:
        assert all(build_memory_bytes(rows, dimensions, each) > available for each in (2, 3, 4, 50, 100))
    else:
        assert build_memory_bytes(rows, dimensions, m) <= available
        assert m == 100 or build_memory_bytes(rows, dimensions, m + 1) > available


@given(st.integers(1, 1_000_000), dimensions, ms)
def test_an_index_is_no_smaller_than_its_vectors(rows: int, dimensions: int, m: int) -> None:
    assert index_bytes(rows, dimensions, m) >= rows * 4 * dimensions


@given(rows, ms, efs)
def test_suggestions_are_in_the_guide_s_table_or_greater_and_final(rows: int, m: int, ef_construction: int) -> None:
    least, _ = guide_range(rows)
    found = suggested(rows, m, ef_construction)
    assert found[0] >= max(least[0], m)
    assert found[1] >= max(least[1], ef_construction)
    assert suggested(rows, *found) == found


@pytest.mark.parametrize(
    ("rows", "least", "most"),
    [
        (0, (16, 64), (16, 64)),
        (9_999, (16, 64), (16, 64)),
        (10_000, (16, 64), (32, 128)),
        (99_999, (16, 64), (32, 128)),
        (100_000, (32, 128), (64, 256)),
    ],
)
def test_the_guide_s_table(rows: int, least: tuple[int, int], most: tuple[int, int]) -> None:
    assert guide_range(rows) == (least, most)
    check_parameters(*least)
    check_parameters(*most)


@given(ms, efs)
def test_the_next_step_up_is_one_and_pgvector_takes_it(m: int, ef_construction: int) -> None:
    larger = stronger(m, ef_construction)
    check_parameters(*larger)
    assert larger[0] >= m
    assert larger[1] >= min(ef_construction, 1000)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=10), st.lists(st.floats(0, 2), max_size=10))
def test_recall_is_a_share(exact: list[float], found: list[float]) -> None:
    exact.sort()
    assert 0 <= recall_of(exact, sorted(found)) <= 1
    assert recall_of(exact, exact) == 1
    assert recall_of(exact, []) == 0


def test_a_row_as_near_as_the_tenth_is_a_right_answer() -> None:
    assert recall_of([0.1, 0.2, 0.2], [0.1, 0.2, 0.2000000001]) == 1
    assert recall_of([0.1, 0.2], [0.1, 0.3]) == 0.5
    assert recall_of([], [0.1]) == 1


@given(st.lists(st.floats(0.01, 1000), min_size=1))
def test_percentiles_lie_among_the_values(values: list[float]) -> None:
    p50, p95 = percentiles(values)
    nearly = 1e-9  # interpolation rounds
    assert min(values) - nearly <= p50 <= p95 + nearly <= max(values) + 2 * nearly


def test_no_probe_is_no_recall() -> None:
    assert summary([]) is None
    assert str(summary([1.0, 0.5])) == "0.750 (worst 0.50, 2 probes)"


@pytest.mark.parametrize(
    ("version", "safe"),
    [("0.5.1", False), ("0.6.0", False), ("0.8.1", False), ("0.8.2", True), ("0.8.10", True), ("1.0", True)],
)
def test_no_parallel_workers_where_they_are_unsafe(version: str, safe: bool) -> None:
    assert parallel_is_safe(version) == safe
    assert (workers_for(MACHINE, version, GB)[0] > 0) == safe


@pytest.mark.parametrize(
    ("machine", "memory", "workers"),
    [
        (MACHINE, GB, 3),
        (replace(MACHINE, cpus=1), GB, 0),
        (replace(MACHINE, cpus=None), GB, 2),
        (replace(MACHINE, shared_memory=64 * MB), GB, 0),
        (replace(MACHINE, most_workers=1), GB, 1),
        (MACHINE, 64 * MB, 1),
        (MACHINE, 8 * MB, 0),
    ],
)
def test_workers_by_what_there_is(machine: Machine, memory: int, workers: int) -> None:
    assert workers_for(machine, "0.8.6", memory)[0] == workers


def test_memory_by_what_there_is() -> None:
    assert memory_limit(MACHINE, WANTED)[0] == 4 * GB
    assert memory_limit(replace(MACHINE, available=None), WANTED)[0] == GB
    assert memory_limit(replace(MACHINE, available=0), WANTED)[0] == 64 * MB
    assert memory_limit(MACHINE, WANTED.model_copy(update={"maintenance_work_mem_mb": 10}))[0] == 10 * MB


def test_the_choices_where_memory_is_short() -> None:
    smaller, half, more = choices(100_000, 1536, 64, 700 * MB)
    assert smaller.startswith("m=")
    assert "would fit" in half
    assert more.startswith("more memory: [reindex] maintenance_work_mem_mb = ")
    assert "would not fit either" in choices(100_000, 1536, 64, 100 * MB)[0]


@given(st.floats(0.01, 100), st.integers(3_000, 10_000_000), st.integers(0, 8))
def test_an_expectation_grows_with_rows_and_shrinks_with_workers(seconds: float, rows: int, workers: int) -> None:
    here = extrapolated(seconds, 1500, rows, workers, fits=True)
    assert here > 0
    assert extrapolated(seconds, 1500, 2 * rows, workers, fits=True) > 2 * here
    assert extrapolated(seconds, 1500, rows, workers + 1, fits=True) < here
    assert extrapolated(seconds, 1500, rows, workers, fits=False) > here


def test_a_new_index_that_the_planner_would_pass_over_is_not_let_in() -> None:
    plan = BuildPlan("i", 16, 64, "vector_cosine_ops", 45_000, 1, 1, 0, True, 1, None, (), ())
    liked = Figures("i", "as it is", Recall(1.0, 1.0, 20), None, 1.0, 2.0)
    passed_over = replace(liked, by_default=False)

    def planner(rows: int, before: Figures | None, after: Figures) -> str:
        checks = examine(FOUND, replace(plan, rows=rows), before, after, WANTED)
        return next(check.status for check in checks if check.name == "planner")

    assert planner(45_000, liked, passed_over) == "failed"
    assert planner(45_000, passed_over, passed_over) == planner(45_000, None, passed_over) == "skipped"
    assert planner(45_000, passed_over, liked) == "ok"
    assert planner(5_000, liked, passed_over) == "ok"


@pytest.mark.parametrize(
    ("rows", "ms", "verdict"), [(45_000, 369.0, "rebuild"), (45_000, 50.0, "note"), (900, 9.0, "ok")]
)
def test_searches_that_pass_over_the_index(rows: int, ms: float, verdict: str) -> None:
    figures = Figures("i", "as it is", Recall(1.0, 1.0, 20), None, 1.0, 2.0, by_default=False)
    column = Column("public", "t", "c", 3, "public", False)
    target = Target("i", column, FOUND, "vector_cosine_ops", 16, 64, True)
    lines = findings(target, Measured(rows, 0, 0, figures, "", ms), MACHINE, "0.8.6", WANTED)
    (planner,) = [line for line in lines if line.what == "planner"]
    assert planner.verdict == verdict
    assert f"{ms:.0f} ms" in planner.figure


def test_what_is_left_of_a_build() -> None:
    assert remaining_seconds(10, 100, 100) == pytest.approx(0)
    assert remaining_seconds(10, 50, 100) > 10
    assert remaining_seconds(10, 0, 100) == float("inf")


@given(st.text(min_size=1, max_size=63).filter(lambda text: len(text.encode()) <= 63 and "\x00" not in text))
def test_working_names_fit_and_are_known_again(name: str) -> None:
    made = working_name(name, "new", "0123abcd")
    assert len(made.encode()) <= 63
    assert is_working_name(made)
    assert made != working_name(name, "old", "0123abcd")


def test_what_is_built() -> None:
    keep = replace(ADVICE, name="b", reasons=())
    own = replace(keep, name="c", of_revision=False)
    every = (ADVICE, keep, own)
    assert choose(every) == (Choice("a", 16, 64),)
    assert choose(every, index="b") == (Choice("b", 16, 64),)
    assert choose(every, m=32) == (Choice("a", 32, 64), Choice("b", 32, 64))
    assert choose(every, m=64) == (Choice("a", 64, 128), Choice("b", 64, 128))
    assert choose(every, index="b", tuned={"b": (24, 96)}) == (Choice("b", 24, 96),)
    with pytest.raises(UsageError, match="no vector index 'z'"):
        choose(every, index="z")
    with pytest.raises(UsageError, match="out of range"):
        choose(every, m=500)


def test_leftovers_by_name_journal_and_state() -> None:
    def index(name: str, oid: int, *, valid: bool = False, being_built: bool = False) -> HnswIndex:
        state = {"valid": valid, "being_built": being_built}
        return replace(FOUND, name=name, oid=oid, **state)

    new, old = working_name("i", "new", "00000001"), working_name("i", "old", "00000001")
    main = index("i", 1, valid=True)
    assert classify([main], [new]) == ()
    assert [one.ours for one in classify([main, index(new, 2), index(old, 3, valid=True)], [new, old])] == [True, True]
    assert [one.why for one in classify([main, index(new, 2, being_built=True)], [new])] == [
        "it is being built at this moment"
    ]
    assert [one.ours for one in classify([main, index(new, 2)], [])] == [False]
    assert [one.ours for one in classify([index("i", 1), index(old, 3, valid=True)], [old])] == [False, False]
