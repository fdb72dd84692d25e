"""Stored vectors asked for again: what a search would answer, how fast, and on which index it ran."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from psycopg.sql import NULL, SQL, Identifier

from sql import query
from tasks.core.errors import OpsError
from tasks.core.postgres.connections import Connection
from tasks.core.settings import ReindexSettings
from tasks.core.vectors.indexes import Column
from tasks.core.vectors.recall import K

_FEWEST = 5  # probes with exact answers, whatever time they take
_ITERATIVE_SCANS = (0, 8)
_IN_LANGUAGE = "language = %(language)s"


class WrongIndex(OpsError):
    """A probe did not run on the index that it should measure."""


@dataclass(frozen=True)
class Probe:
    """A stored vector, and the distances of its K nearest neighbours in the exact order: among all rows, and among
    those of its own language (None where it has none).
    """

    id: int
    vector: str
    language: str | None
    exact: tuple[float, ...] = ()
    exact_filtered: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """Distances in the order found, the probe's own row left out; the time that the server took and the way there."""

    distances: tuple[float, ...]
    milliseconds: float


def take_probes(conn: Connection, column: Column, wanted: ReindexSettings) -> tuple[Probe, ...]:
    """At most `wanted.probes`, the same ones each time, with their exact answers: as many as the budget allows, and at
    least five. Fewer than there should be where the table has not so many.
    """
    language = Identifier("language") if column.language else NULL
    statement = query("sample_probes").format(**column.words, language=language)
    rows = conn.execute(statement, {"wanted": wanted.probes}).fetchall()
    deadline = time.monotonic() + wanted.probe_budget.total_seconds()
    probes: list[Probe] = []
    for row in rows:
        if len(probes) >= _FEWEST and time.monotonic() > deadline:
            break
        probes.append(_with_exact(conn, column, Probe(*row)))
    return tuple(probes)


# What makes the planner take an index, also where it would rather read a small table.
_FORCED = ("enable_seqscan", "enable_bitmapscan", "enable_sort")


@contextmanager
def probing(conn: Connection, wanted: ReindexSettings, version: str, *, force: bool = True) -> Iterator[None]:
    """A transaction, always rolled back, in which searches are as the application's. `force`: through an index, also
    where the planner would rather read a small table.
    """
    with conn.transaction(force_rollback=True):
        values = {"hnsw.ef_search": str(wanted.ef_search)}
        if tuple(int(part) for part in version.split(".")[:2]) >= _ITERATIVE_SCANS:
            values["hnsw.iterative_scan"] = "strict_order"
        if force:
            values |= dict.fromkeys(_FORCED, "off")
        for name, value in values.items():
            conn.execute(query("set_local"), {"name": name, "value": value})
        yield


def ask(conn: Connection, column: Column, probe: Probe, *, filtered: bool = False) -> Answer:
    """One search for the probe's nearest. The time is the client's: what an application beside it would wait."""
    statement = _search(column, filtered=filtered)
    values = _values(probe)
    began = time.perf_counter()
    rows = conn.execute(statement, values, prepare=False).fetchall()
    spent = (time.perf_counter() - began) * 1000
    return Answer(tuple(distance for id_, distance in rows if id_ != probe.id)[:K], spent)


def index_used(conn: Connection, column: Column, probe: Probe, *, filtered: bool = False) -> str | None:
    """Name of the index on which EXPLAIN says that the probe's search runs, None where it reads the table."""
    statement = query("explain_statement").format(statement=_search(column, filtered=filtered))
    row = conn.execute(statement, _values(probe), prepare=False).fetchone()
    assert row is not None
    return next(_ordering_indexes(row[0][0]["Plan"]), None)


def chosen_by_default(conn: Connection, column: Column, probe: Probe) -> str | None:
    """The index that the planner takes when nothing is forced, None where it reads the table. Within `probing`."""
    for name in _FORCED:
        conn.execute(query("set_local"), {"name": name, "value": "on"})
    chosen = index_used(conn, column, probe)
    for name in _FORCED:
        conn.execute(query("set_local"), {"name": name, "value": "off"})
    return chosen


def assert_runs_on(conn: Connection, column: Column, probe: Probe, index: str, *, filtered: bool = False) -> None:
    """Raises WrongIndex."""
    used = index_used(conn, column, probe, filtered=filtered)
    if used != index:
        where = f"ran on {used}" if used else "used no vector index"
        raise WrongIndex(f"a probe meant for {index} {where}")


def has_exact(probes: Sequence[Probe]) -> bool:
    return any(probe.exact for probe in probes)


def _with_exact(conn: Connection, column: Column, probe: Probe) -> Probe:
    exact = _exact(conn, column, probe, "")
    filtered = _exact(conn, column, probe, f"AND {_IN_LANGUAGE}") if probe.language is not None else None
    return replace(probe, exact=exact, exact_filtered=filtered)


def _exact(conn: Connection, column: Column, probe: Probe, condition: str) -> tuple[float, ...]:
    clause = SQL("AND " + _IN_LANGUAGE) if condition else SQL("")
    statement = query("exact_neighbours").format(**column.words, condition=clause)
    rows = conn.execute(statement, _values(probe), prepare=False).fetchall()
    return tuple(row[0] for row in rows)[:K]


def _search(column: Column, *, filtered: bool) -> Any:
    condition = SQL("WHERE " + _IN_LANGUAGE) if filtered else SQL("")
    return query("index_neighbours").format(**column.words, condition=condition)


def _values(probe: Probe) -> dict[str, Any]:
    return {"probe": probe.vector, "id": probe.id, "language": probe.language, "limit": K + 1}


def _ordering_indexes(node: dict[str, Any]) -> Iterator[str]:
    """Indexes that a plan reads in the order of distances: an index scan with an Order By."""
    if "Index Name" in node and "Order By" in node:
        yield node["Index Name"]
    for child in node.get("Plans", ()):
        yield from _ordering_indexes(child)
