"""Which parameters are worth their price here? Candidates measured on a sample of the table's own vectors.

The sample is a temporary table: nothing of it outlives the session. With fewer rows every recall is higher and every
search quicker than on the whole table, so the candidates are to be compared with each other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.errors import Refused
from tasks.core.postgres.connections import Connection, connect, database_errors, target
from tasks.core.progress import note, track
from tasks.core.settings import ReindexSettings, Settings
from tasks.core.vectors.guide import check_parameters
from tasks.core.vectors.indexes import Column, Target, target_named, targets
from tasks.core.vectors.measure import measure
from tasks.core.vectors.probes import Probe, take_probes
from tasks.core.vectors.sample import copy_rows, create_index

CANDIDATES = ((8, 32), (16, 64), (24, 96), (32, 128), (48, 192), (64, 256))
SAMPLE = 10_000  # rows
BUDGET_SECONDS = 180.0
_FEWEST = 100  # rows; with less every search finds everything
_MEMORY = "512MB"  # more than the graph of the sample takes at any candidate


@dataclass(frozen=True)
class Candidate:
    """As measured on `rows` rows: recall of 0 to 1, times of the build and of a search, size on disk."""

    m: int
    ef_construction: int
    rows: int
    recall: float
    recall_minimum: float
    p50_ms: float
    p95_ms: float
    build_seconds: float
    size_bytes: int


def tune(
    settings: Settings,
    name: str,
    candidates: Sequence[tuple[int, int]] = CANDIDATES,
    *,
    sample: int = SAMPLE,
    budget_seconds: float = BUDGET_SECONDS,
) -> tuple[Candidate, ...]:
    """Measure `candidates` (m, ef_construction) for the index `name`, cheapest first, as many as the budget allows.

    Raises UsageError (no such index, impossible parameters), Refused for a table too small to tell, DatabaseError.
    """
    for candidate in candidates:
        check_parameters(*candidate)
    with connect(target(settings), purpose="tune", database=settings.database) as conn, database_errors("tuning"):
        chosen = target_named(targets(conn, settings), name)
        column, rows = _sample(conn, chosen, sample)
        probes = take_probes(conn, column, settings.reindex)
        deadline = time.monotonic() + budget_seconds
        found: list[Candidate] = []
        with track("tune", f"Tune {name} on {rows:,} rows", total=len(candidates), unit="candidates") as bar:
            for m, ef_construction in candidates:
                if found and time.monotonic() > deadline:
                    note(
                        f"{budget_seconds:.0f} s are over: {len(candidates) - len(found)} candidates were not measured"
                    )
                    break
                found.append(_measure(conn, chosen, column, rows, probes, settings.reindex, (m, ef_construction)))
                bar.advance(1)
    return tuple(found)


def best(candidates: Sequence[Candidate], wanted: ReindexSettings) -> Candidate | None:
    """The quickest search among those that meet the floors; None where none does."""
    fitting = [
        one for one in candidates if one.recall >= wanted.recall_floor and one.recall_minimum >= wanted.minimum_floor
    ]
    return min(fitting, key=lambda one: (one.p95_ms, one.build_seconds), default=None)


def _sample(conn: Connection, chosen: Target, sample: int) -> tuple[Column, int]:
    """A copy of some rows as a column of its own, and how many they are."""
    column, copied = copy_rows(conn, chosen.column, sample)
    if copied < _FEWEST:
        raise Refused(
            f"{chosen.column.table} has {copied} vectors: too few to tell candidates apart",
            hint="index something first: kg index ENVIRONMENT PATH",
        )
    for name, value in (("maintenance_work_mem", _MEMORY), ("max_parallel_maintenance_workers", "0")):
        conn.execute(query("set_setting"), {"name": name, "value": value})
    return column, copied


def _measure(
    conn: Connection,
    chosen: Target,
    column: Column,
    rows: int,
    probes: Sequence[Probe],
    wanted: ReindexSettings,
    parameters: tuple[int, int],
) -> Candidate:
    name = f"kg_tune_{parameters[0]}_{parameters[1]}"
    began = time.perf_counter()
    conn.execute(create_index(column, name, chosen.operator_class, parameters))
    spent = time.perf_counter() - began
    figures = measure(conn, column, name, probes, wanted)
    assert figures is not None
    size = conn.execute(query("relation_size"), {"name": f"pg_temp.{name}"}).fetchone()
    assert size is not None
    conn.execute(query("drop_index").format(concurrently=SQL(""), name=Identifier("pg_temp", name)))
    return Candidate(
        m=parameters[0],
        ef_construction=parameters[1],
        rows=rows,
        recall=figures.recall.mean,
        recall_minimum=figures.recall.minimum,
        p50_ms=figures.p50_ms,
        p95_ms=figures.p95_ms,
        build_seconds=spent,
        size_bytes=int(size[0]),
    )
