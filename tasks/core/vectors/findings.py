"""Each thing that advice looks at: the measured figure, and why it calls for a re-index or does not. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tasks.core.schema.extension import known_bugs
from tasks.core.settings import ReindexSettings
from tasks.core.vectors.guide import CHEAPER, GROWTH, SMALL_TABLE, guide_range
from tasks.core.vectors.indexes import Target
from tasks.core.vectors.machine import Machine
from tasks.core.vectors.memory import index_bytes
from tasks.core.vectors.recall import Figures

PLANNER = "planner"
Verdict = Literal["ok", "rebuild", "note", "unknown"]
_MB = 2**20


@dataclass(frozen=True)
class Finding:
    """One line of the advice. "rebuild" calls for a re-index, "note" is worth knowing, "unknown" was not measured."""

    what: str
    figure: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Measured:
    """What was read or measured of one index. Counts of rows; `missed` says why there are no figures."""

    rows: int
    without_vector: int | None
    zero_vectors: int | None
    figures: Figures | None
    missed: str
    whole_table_ms: float | None = None
    """Of one search as the planner runs it by itself, where that is not on the index."""
    passed_over: bool = False
    """Without figures: EXPLAIN shows a search that does not use it."""


def findings(target: Target, seen: Measured, machine: Machine, version: str, wanted: ReindexSettings) -> list[Finding]:
    """A line for each measure, in the order of the guide."""
    if target.found is None:
        return [Finding("index", "missing", "rebuild", "every search reads the whole table")]
    lines = [_validity(target), _operator_class(target), _growth(target, seen.rows), *_measured(seen, wanted)]
    lines += [_parameters(target, seen.rows), _bloat(target, seen.rows, wanted), _memory(target, machine)]
    lines += [_left_out(seen), *_version(version)]
    return lines


def _validity(target: Target) -> Finding:
    assert target.found
    if target.found.being_built:
        return Finding("validity", "being built", "note", "a session builds it at this moment")
    if not target.found.valid:
        return Finding("validity", "INVALID", "rebuild", "the index is not valid: it costs writes and serves no search")
    return Finding("validity", "valid", "ok", "valid and ready")


def _operator_class(target: Target) -> Finding:
    assert target.found
    found = target.found.operator_class
    if found != target.operator_class:
        why = f"its operator class is {found}; searches order by {target.operator_class}, which it cannot serve"
        return Finding("operator class", found, "rebuild", why)
    return Finding("operator class", found, "ok", "searches order by it")


def _growth(target: Target, rows: int) -> Finding:
    assert target.found
    built = target.found.rows_at_build
    if not built:
        why = "the ledger knows no build of it" if built is None else "it was built on an empty table"
        return Finding("growth", f"{rows:,} vectors", "ok" if built == 0 else "unknown", why)
    figure = f"{rows:,} vectors, {built:,} at its build"
    if rows > GROWTH * built:
        return Finding("growth", figure, "rebuild", f"{figure}: more than {GROWTH} times as many")
    return Finding("growth", figure, "ok", f"{rows / built:.1f} times as many; the guide's limit is {GROWTH}")


def _measured(seen: Measured, wanted: ReindexSettings) -> Iterator[Finding]:
    if seen.figures is None:
        for what in ("P50 / P95", "recall@10"):
            yield Finding(what, "", "unknown", seen.missed)
        if seen.passed_over:
            yield Finding(PLANNER, "reads the whole table", "note", f"searches pass over the index: {CHEAPER}")
        return
    found = seen.figures
    figure = f"{found.p50_ms:.1f} / {found.p95_ms:.1f} ms"
    if found.p95_ms > wanted.slow_ms:
        why = f"P95 of a probe is {found.p95_ms:.0f} ms, more than {wanted.slow_ms:.0f} ms"
        yield Finding("P50 / P95", figure, "rebuild", why)
    else:
        yield Finding("P50 / P95", figure, "ok", f"the limit of P95 is {wanted.slow_ms:.0f} ms")
    yield _recall("recall@10", found.recall.mean, found.recall.minimum, found.recall.probes, wanted)
    if found.filtered:
        one = found.filtered
        yield _recall("recall@10 in a language", one.mean, one.minimum, one.probes, wanted)
    else:
        yield Finding("recall@10 in a language", "", "unknown", "no probe has a language")
    yield _planner(seen, wanted)


def _planner(seen: Measured, wanted: ReindexSettings) -> Finding:
    if seen.whole_table_ms is None:
        return Finding(PLANNER, "uses it", "ok", "searches use the index by themselves")
    assert seen.figures
    figure = f"reads the whole table, {seen.whole_table_ms:.0f} ms; the index takes {seen.figures.p50_ms:.0f}"
    if seen.rows < SMALL_TABLE:
        return Finding(PLANNER, figure, "ok", "a table so small is read whole, rightly")
    if seen.whole_table_ms > wanted.slow_ms:
        why = f"searches pass over the index and take {seen.whole_table_ms:.0f} ms: {CHEAPER}"
        return Finding(PLANNER, figure, "rebuild", why)
    return Finding(PLANNER, figure, "note", f"searches pass over the index: {CHEAPER}")


def _recall(what: str, mean: float, minimum: float, probes: int, wanted: ReindexSettings) -> Finding:
    figure = f"{mean:.3f}, worst {minimum:.2f} of {probes} probes"
    if mean < wanted.recall_floor:
        return Finding(what, figure, "rebuild", f"{what} is {mean:.3f}, under the floor {wanted.recall_floor:.2f}")
    if minimum < wanted.minimum_floor:
        why = f"{what} of the worst probe is {minimum:.2f}, under the floor {wanted.minimum_floor:.2f}"
        return Finding(what, figure, "rebuild", why)
    return Finding(what, figure, "ok", f"the floors are {wanted.recall_floor:.2f} and {wanted.minimum_floor:.2f}")


def _parameters(target: Target, rows: int) -> Finding:
    assert target.found
    m, ef = target.found.m, target.found.ef_construction
    least, most = guide_range(rows)
    figure = f"m={m}, ef_construction={ef}"
    ranges = [_span(low, high) for low, high in zip(least, most, strict=True)]
    by_guide = f"for {rows:,} vectors the guide has m={ranges[0]}, ef_construction={ranges[1]}"
    if m < least[0] or ef < least[1]:
        return Finding("parameters", figure, "rebuild", f"{figure}; {by_guide}")
    if m > most[0] or ef > most[1]:
        return Finding("parameters", figure, "note", f"{by_guide}; more costs time and memory, not recall")
    return Finding("parameters", figure, "ok", by_guide)


def _bloat(target: Target, rows: int, wanted: ReindexSettings) -> Finding:
    assert target.found
    fresh = index_bytes(rows, target.column.dimensions, target.found.m)
    times = target.found.size_bytes / fresh
    figure = f"{target.found.size_bytes / _MB:,.0f} MB, fresh about {fresh / _MB:,.0f} MB"
    if times > wanted.bloat_factor and target.found.size_bytes > 8 * _MB:
        why = f"{figure}: {times:.1f} times its computed size, the limit is {wanted.bloat_factor:.1f}"
        return Finding("bloat", figure, "rebuild", why)
    return Finding("bloat", figure, "ok", f"{times:.1f} times its computed size")


def _memory(target: Target, machine: Machine) -> Finding:
    assert target.found
    size, cache = target.found.size_bytes, max(machine.effective_cache_size, machine.shared_buffers)
    figure = f"{size / _MB:,.0f} MB, cache {cache / _MB:,.0f} MB"
    if size > cache:
        return Finding("size", figure, "note", "it does not fit into effective_cache_size: searches will read the disk")
    if size > machine.shared_buffers:
        why = f"larger than shared_buffers ({machine.shared_buffers / _MB:,.0f} MB), within effective_cache_size"
        return Finding("size", figure, "ok", why)
    return Finding("size", figure, "ok", "it fits into shared_buffers")


def _left_out(seen: Measured) -> Finding:
    if seen.without_vector is None or seen.zero_vectors is None:
        return Finding("not indexed", "", "unknown", "not counted")
    figure = f"{seen.without_vector:,} without a vector, {seen.zero_vectors:,} of length zero"
    if seen.zero_vectors:
        return Finding("not indexed", figure, "note", "no search finds a zero vector; left out of recall")
    return Finding("not indexed", figure, "ok", "left out of recall")


def _version(version: str) -> Iterator[Finding]:
    bugs = known_bugs(version)
    for bug in bugs:
        yield Finding("pgvector", version, "note", f"known bug: {bug}")
    if not bugs:
        yield Finding("pgvector", version, "ok", "no known bug of this version")


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}-{most}"
