"""How an index would be built: with which parameters, memory and workers, and how long it should take.

Nothing is changed here; the sample that is timed lies in a temporary table.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from sql import query
from tasks.core.errors import Refused
from tasks.core.postgres.connections import Connection, database_errors, vector_extension
from tasks.core.settings import Settings
from tasks.core.vectors.guide import check_parameters, suggested
from tasks.core.vectors.indexes import Column, Target
from tasks.core.vectors.machine import machine_of, memory_limit, workers_for
from tasks.core.vectors.memory import build_memory_bytes, index_bytes, largest_m
from tasks.core.vectors.sample import copy_rows, create_index

_MB = 2**20
_LEAST_MEMORY = 64 * _MB  # the server's default; also what two workers must have
_HEADROOM = 1.1  # of the formula: the allocator's own share
_SAMPLE = 1500  # rows that are timed
_SLOWER = 4.0  # a build whose graph does not fit, measured: 51 s instead of 15 s, and worse with more rows
# What one more worker adds, of the first one's speed: 0.8 on a quiet machine, nothing on one whose processors are busy.
_PARALLEL = 0.6
# Seconds grow with the rows to this power, measured: 1,500 rows took 1.1 s; 5,000 5.2; 10,000 10.8; 20,000 33 (m=16,
# ef_construction=64), and with m=24, ef_construction=100 1.6, 13.9, 19.4 for the first three. A search for a vector's
# neighbours becomes longer with the graph's depth, and misses the processor's caches more often the larger it is.
_POWER = 1.3


@dataclass(frozen=True)
class BuildPlan:
    """What a build would do. Sizes in bytes, `expected_seconds` from a sample (None for a table too small to tell).

    `notes` say where the figures come from; `choices` what there is to choose where the memory cannot hold the graph.
    """

    index: str
    m: int
    ef_construction: int
    operator_class: str
    rows: int
    needed_bytes: int
    maintenance_work_mem: int
    workers: int
    fits: bool
    index_bytes: int
    expected_seconds: float | None
    notes: tuple[str, ...]
    choices: tuple[str, ...]

    def __str__(self) -> str:
        expected = f", about {self.expected_seconds:.0f} s" if self.expected_seconds is not None else ""
        return (
            f"{self.index}: m={self.m}, ef_construction={self.ef_construction} over {self.rows:,} vectors, graph "
            f"{self.needed_bytes // _MB:,} MB, maintenance_work_mem {self.maintenance_work_mem // _MB:,} MB, "
            f"parallel workers: {self.workers}{expected}"
        )


def chosen_parameters(target: Target, rows: int, m: int | None, ef_construction: int | None) -> tuple[int, int]:
    """Those given; else the guide's for so many rows. Raises UsageError for what pgvector would refuse."""
    present = (target.found.m, target.found.ef_construction) if target.found else (target.m, target.ef_construction)
    by_guide = suggested(rows, *present)
    chosen = m or by_guide[0], ef_construction or max(by_guide[1], 2 * (m or by_guide[0]))
    check_parameters(*chosen)
    return chosen


def plan_build(
    conn: Connection, settings: Settings, target: Target, m: int | None = None, ef_construction: int | None = None
) -> BuildPlan:
    """Raises UsageError for impossible parameters, Refused for a build that would outlast `build_timeout`."""
    column, wanted = target.column, settings.reindex
    with database_errors("planning a build"):
        rows = count_rows(conn, column)
        chosen = chosen_parameters(target, rows, m, ef_construction)
        machine, version = machine_of(conn), vector_extension(conn).installed or "0"
        needed = round(build_memory_bytes(rows, column.dimensions, chosen[0]) * _HEADROOM)
        limit, source = memory_limit(machine, wanted)
        # Not more than it needs: a parallel build takes all of it from the shared memory at once.
        memory = min(limit, max(_LEAST_MEMORY, math.ceil(needed / _MB) * _MB))
        workers, why = workers_for(machine, version, memory)
        expected = expected_seconds(conn, column, target.operator_class, rows, chosen, workers, fits=needed <= memory)
    plan = BuildPlan(
        index=target.name,
        m=chosen[0],
        ef_construction=chosen[1],
        operator_class=target.operator_class,
        rows=rows,
        needed_bytes=needed,
        maintenance_work_mem=memory,
        workers=workers,
        fits=needed <= memory,
        index_bytes=index_bytes(rows, column.dimensions, chosen[0]),
        expected_seconds=expected,
        notes=(f"memory limit {limit // _MB:,} MB: {source}", f"parallel workers {workers}: {why}"),
        choices=() if needed <= memory else tuple(choices(rows, column.dimensions, chosen[0], limit)),
    )
    _refuse_endless(plan, settings)
    return plan


def choices(rows: int, dimensions: int, m: int, limit: int) -> list[str]:
    """What there is to do where the graph of `rows` vectors at `m` does not fit into `limit` bytes."""
    said = []
    smaller = largest_m(rows, dimensions, round(limit / _HEADROOM))
    if smaller is not None and smaller < m:
        said.append(f"m={smaller} would fit (at a lower recall)")
    half = round(build_memory_bytes(rows, dimensions, m, bytes_each=2) * _HEADROOM)
    fits = "would fit" if half <= limit else "would not fit either"
    said.append(f"an expression index on {{column}}::halfvec({dimensions}) takes {half // _MB:,} MB and {fits}; "
                "searches must then order by the same expression")  # fmt: skip
    needed = math.ceil(build_memory_bytes(rows, dimensions, m) * _HEADROOM / _MB)
    said.append(f"more memory: [reindex] maintenance_work_mem_mb = {needed} where the machine has it")
    return said


def expected_seconds(
    conn: Connection,
    column: Column,
    operator_class: str,
    rows: int,
    parameters: tuple[int, int],
    workers: int,
    *,
    fits: bool,
) -> float | None:
    """From a build over a sample, here and now; None where the table is hardly greater than the sample."""
    if rows < 2 * _SAMPLE:
        return None
    with conn.transaction(force_rollback=True):
        conn.execute(query("set_local"), {"name": "max_parallel_maintenance_workers", "value": "0"})
        sample, _ = copy_rows(conn, column, _SAMPLE)
        began = time.perf_counter()
        conn.execute(create_index(sample, "kg_sample_idx", operator_class, parameters))
        spent = time.perf_counter() - began
    return extrapolated(spent, _SAMPLE, rows, workers, fits=fits)


def extrapolated(seconds: float, sample: int, rows: int, workers: int, *, fits: bool) -> float:
    """Seconds for `rows` when `sample` took `seconds` without a worker."""
    alone = seconds * math.pow(rows / sample, _POWER)
    return alone / (1 + _PARALLEL * workers) * (1 if fits else _SLOWER)


def count_rows(conn: Connection, column: Column) -> int:
    """Vectors in the column."""
    words = {name: word for name, word in column.words.items() if name != "extension"}
    row = conn.execute(query("count_vectors").format(**words)).fetchone()
    assert row is not None
    return int(row[0])


def _refuse_endless(plan: BuildPlan, settings: Settings) -> None:
    limit = settings.reindex.build_timeout.total_seconds()
    if plan.expected_seconds is not None and plan.expected_seconds > limit:
        needed, given = (f"{size // _MB:,} MB" for size in (plan.needed_bytes, plan.maintenance_work_mem))
        why = "" if plan.fits else f"; its graph needs {needed} and has {given}"
        raise Refused(
            f"building {plan.index} would last about {plan.expected_seconds / 3600:.1f} h, and build_timeout is "
            f"{limit / 3600:.1f} h{why}",
            hint="; or ".join((*plan.choices, "raise [reindex] build_timeout")),
        )
