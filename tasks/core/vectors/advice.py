"""Should an HNSW index be built anew? Every reason with the figure that it was read from. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sql import query
from tasks.core.postgres.connections import (
    Connection,
    Server,
    connect,
    database_errors,
    describe,
    target,
    vector_extension,
)
from tasks.core.schema import ledger
from tasks.core.schema.extension import has_hnsw
from tasks.core.settings import Settings
from tasks.core.vectors.findings import Finding, Measured, findings
from tasks.core.vectors.guide import SMALL_TABLE, stronger, suggested
from tasks.core.vectors.indexes import HnswIndex, Target, hnsw_indexes, targets
from tasks.core.vectors.machine import Machine, machine_of
from tasks.core.vectors.measure import measure
from tasks.core.vectors.memory import build_memory_bytes
from tasks.core.vectors.plan import count_rows
from tasks.core.vectors.probes import Probe, WrongIndex, ask, chosen_by_default, probing, take_probes
from tasks.core.vectors.recall import Figures, Recall
from tasks.core.vectors.record import record_builds

# Called for by these, an index with the guide's own parameters needs greater ones.
_STRONGER = ("recall@10", "recall@10 in a language", "planner")

__all__ = ["Advice", "advise", "advise_on", "record_builds"]


@dataclass(frozen=True)
class Advice:
    """One index. Sizes in bytes, latencies in milliseconds; `reasons` is empty where it may stay as it is."""

    name: str
    table: str
    column: str
    rows: int
    rows_at_build: int | None
    size_bytes: int
    valid: bool
    m: int
    ef_construction: int
    suggested: tuple[int, int]
    build_memory_bytes: int
    p50_ms: float | None
    p95_ms: float | None
    reasons: tuple[str, ...]
    recall: Recall | None = None
    filtered: Recall | None = None
    findings: tuple[Finding, ...] = ()
    of_revision: bool = True


def advise(settings: Settings, *, probes: bool = True) -> tuple[Advice, ...]:
    """One entry for each vector index that our tables have or should have; without `probes` nothing is timed and no
    row's vector is read, which takes a moment only. Raises DatabaseError.
    """
    with connect(target(settings), purpose="advise", database=settings.database) as conn:
        return advise_on(conn, settings, probes=probes)


def advise_on(conn: Connection, settings: Settings, *, probes: bool = True) -> tuple[Advice, ...]:
    """Likewise on this connection, which is in autocommit mode."""
    version = vector_extension(conn).installed
    if not ledger.exists(conn) or version is None or not has_hnsw(version):
        return ()
    server, machine = describe(conn), machine_of(conn)
    with database_errors("reading the vector indexes"):
        return tuple(_advise(conn, settings, one, server, machine, version, probes) for one in targets(conn, settings))


def _advise(
    conn: Connection, settings: Settings, one: Target, server: Server, machine: Machine, version: str, probes: bool
) -> Advice:
    seen = _look(conn, settings, one, server, version, probes)
    lines = tuple(findings(one, seen, machine, version, settings.reindex))
    m, ef_construction = (one.found.m, one.found.ef_construction) if one.found else (one.m, one.ef_construction)
    wanted = suggested(seen.rows, m, ef_construction)
    figures = seen.figures
    if wanted == (m, ef_construction) and any(line.what in _STRONGER and line.verdict == "rebuild" for line in lines):
        wanted = stronger(m, ef_construction)
    return Advice(
        name=one.name,
        table=one.column.table,
        column=one.column.name,
        rows=seen.rows,
        rows_at_build=one.found.rows_at_build if one.found else None,
        size_bytes=one.found.size_bytes if one.found else 0,
        valid=bool(one.found and one.found.valid),
        m=m,
        ef_construction=ef_construction,
        suggested=wanted,
        build_memory_bytes=build_memory_bytes(seen.rows, one.column.dimensions, wanted[0]),
        p50_ms=figures.p50_ms if figures else None,
        p95_ms=figures.p95_ms if figures else None,
        # Somebody's own index is told of; it is not for us to say that it must be another.
        reasons=tuple(line.why for line in lines if line.verdict == "rebuild") if one.of_revision else (),
        recall=figures.recall if figures else None,
        filtered=figures.filtered if figures else None,
        findings=lines,
        of_revision=one.of_revision,
    )


def _look(conn: Connection, settings: Settings, one: Target, server: Server, version: str, probes: bool) -> Measured:
    rows = count_rows(conn, one.column)
    if not probes:
        passed = _passed_over(conn, settings, one, rows, version)
        return Measured(rows, None, None, None, "probes were left out", passed_over=passed)
    counted = conn.execute(query("count_unindexed").format(**one.column.words)).fetchone()
    assert counted is not None
    taken = take_probes(conn, one.column, settings.reindex)
    figures, missed = _figures(conn, settings, one, server, taken)
    whole = None
    if figures and not figures.by_default:
        with probing(conn, settings.reindex, version, force=False):
            whole = ask(conn, one.column, taken[0]).milliseconds
    return Measured(rows, counted[0], counted[1], figures, missed, whole)


def _passed_over(conn: Connection, settings: Settings, one: Target, rows: int, version: str) -> bool:
    """Whether searches in a large table would not use its valid index: by EXPLAIN, nothing is asked."""
    if one.found is None or not one.found.valid or rows < SMALL_TABLE:
        return False
    any_vector = Probe(0, f"[1{',0' * (one.column.dimensions - 1)}]", None)
    with probing(conn, settings.reindex, version):
        return chosen_by_default(conn, one.column, any_vector) is None


def _figures(
    conn: Connection, settings: Settings, one: Target, server: Server, taken: Sequence[Probe]
) -> tuple[Figures | None, str]:
    """What the index is worth, or why that was not measured."""
    if one.found is None or not one.found.valid:
        return None, "no search can run on it"
    others = [other for other in hnsw_indexes(conn, settings) if _rivals(other, one)]
    # Hiding them needs a lock for other roles, and advice never takes one.
    hidden = [(other.oid, other.name) for other in others] if server.superuser else []
    try:
        figures = measure(conn, one.column, one.name, taken, settings.reindex, others=hidden, superuser=True)
    except WrongIndex as error:
        return None, error.message
    return figures, "" if figures else "the table has no vectors to ask for"


def _rivals(other: HnswIndex, one: Target) -> bool:
    same = (other.table_name, other.column_name) == (one.column.table, one.column.name)
    return same and other.valid and other.name != one.name and other.operator_class == one.operator_class
