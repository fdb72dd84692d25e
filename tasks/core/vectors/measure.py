"""Measure one index: recall against the exact order, and latency, each probe asserted by EXPLAIN to run on it.

While two valid indexes on one column exist the planner may keep to either, so that the one to be measured has to be
the only one it sees. The others are hidden in a transaction that is rolled back: a superuser marks them as not valid
there, which touches nobody else. Another role can only drop them in it, and that shuts searches out: so it is done in
rounds that wait for and hold the lock 300 ms at most.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from psycopg import errors
from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.errors import ReindexFailed
from tasks.core.postgres.connections import Connection, describe, vector_extension
from tasks.core.settings import ReindexSettings
from tasks.core.vectors.indexes import Column
from tasks.core.vectors.probes import Answer, Probe, ask, assert_runs_on, chosen_by_default, probing
from tasks.core.vectors.recall import Figures, percentiles, recall_of, summary

AS_IT_IS = "as it is"
HIDDEN = "the other indexes marked invalid in a transaction that was rolled back"
DROPPED = "the other indexes dropped in transactions that were rolled back, 300 ms at most each"

HOLD_SECONDS = 0.3
_PAUSE_SECONDS = 0.7  # between two rounds: searches come first
_ROUNDS = 60
_REPEATS = 3  # of each timed probe; the median counts


@dataclass(frozen=True)
class _Job:
    probe: Probe
    filtered: bool
    repeats: int


@dataclass
class _Results:
    """Answers of the plain and the filtered probes, and the times of the plain ones."""

    plain: dict[int, Answer] = field(default_factory=dict)
    filtered: dict[int, Answer] = field(default_factory=dict)
    times: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    by_default: bool | None = None


def measure(
    conn: Connection,
    column: Column,
    index: str,
    probes: Sequence[Probe],
    wanted: ReindexSettings,
    *,
    others: Sequence[tuple[int, str]] = (),
    superuser: bool | None = None,
) -> Figures | None:
    """The figures of `index`, with the `others` (oid, name) on its column out of the planner's sight. None where there
    is nothing to ask for. `conn` is in autocommit mode; nothing is written. `superuser`: None asks the server.

    Raises WrongIndex where a probe does not run on it, ReindexFailed where the others cannot be hidden.
    """
    jobs = list(_jobs(probes))
    if not jobs:
        return None
    version = vector_extension(conn).installed or "0"
    results = _Results()
    if not others:
        how = AS_IT_IS
        with probing(conn, wanted, version):
            _run(conn, column, index, jobs, results)
    elif describe(conn).superuser if superuser is None else superuser:
        how = HIDDEN
        with probing(conn, wanted, version):
            conn.execute(query("hide_index"), {"oids": [oid for oid, _ in others]})
            _run(conn, column, index, jobs, results)
    else:
        how = DROPPED
        _run_in_rounds(conn, column, index, jobs, results, wanted, version, [name for _, name in others])
    return _figures(index, how, probes, results)


def _jobs(probes: Sequence[Probe]) -> Iterator[_Job]:
    for probe in probes:
        if probe.exact:
            yield _Job(probe, filtered=False, repeats=_REPEATS)
        if probe.exact_filtered:
            yield _Job(probe, filtered=True, repeats=1)


def _run(conn: Connection, column: Column, index: str, jobs: Sequence[_Job], results: _Results) -> None:
    ask(conn, column, jobs[0].probe)  # the first one warms up
    for job in jobs:
        _do(conn, column, index, job, results)


def _do(conn: Connection, column: Column, index: str, job: _Job, results: _Results) -> None:
    assert_runs_on(conn, column, job.probe, index, filtered=job.filtered)
    if results.by_default is None:
        results.by_default = chosen_by_default(conn, column, job.probe) == index
    for _ in range(job.repeats):
        answer = ask(conn, column, job.probe, filtered=job.filtered)
        (results.filtered if job.filtered else results.plain)[job.probe.id] = answer
        if not job.filtered:
            results.times[job.probe.id].append(answer.milliseconds)


def _run_in_rounds(
    conn: Connection,
    column: Column,
    index: str,
    jobs: Sequence[_Job],
    results: _Results,
    wanted: ReindexSettings,
    version: str,
    others: Sequence[str],
) -> None:
    waiting = list(jobs)
    for number in range(_ROUNDS):
        if number:
            time.sleep(_PAUSE_SECONDS)
        try:
            with probing(conn, wanted, version), _dropped(conn, column.schema, others) as deadline:
                done = 0
                while waiting and (not done or time.monotonic() < deadline):
                    _limit(conn, deadline + 0.05)
                    _do(conn, column, index, waiting[0], results)
                    waiting.pop(0)
                    done += 1
        except errors.LockNotAvailable:
            continue
        except errors.QueryCanceled as error:
            if number >= _ROUNDS // 2:
                raise _unmeasurable(index, "a single probe takes longer") from error
        if not waiting:
            return
    raise _unmeasurable(index, "other transactions use the table all the time")


@contextmanager
def _dropped(conn: Connection, schema: str, others: Sequence[str]) -> Iterator[float]:
    """Yields the monotonic time at which the lock has been held for long enough."""
    conn.execute(query("set_local"), {"name": "lock_timeout", "value": f"{HOLD_SECONDS * 1000:.0f}ms"})
    for name in others:
        statement = query("drop_index").format(concurrently=SQL(""), name=Identifier(schema, name))
        conn.execute(statement)
    yield time.monotonic() + HOLD_SECONDS - 0.05


def _limit(conn: Connection, deadline: float) -> None:
    """No statement of the round goes on beyond `deadline`."""
    left = max(1, round((deadline - time.monotonic()) * 1000))
    conn.execute(query("set_local"), {"name": "statement_timeout", "value": f"{left}ms"})


def _unmeasurable(index: str, why: str) -> ReindexFailed:
    return ReindexFailed(
        f"{index} could not be measured beside the old index: {why}, and the lock is held for "
        f"{HOLD_SECONDS * 1000:.0f} ms at most",
        hint="as a superuser no lock is needed; else do it at a quieter hour",
    )


def _figures(index: str, how: str, probes: Sequence[Probe], results: _Results) -> Figures:
    by_id = {probe.id: probe for probe in probes}
    recall = summary([recall_of(by_id[id_].exact, found.distances) for id_, found in results.plain.items()])
    filtered = summary(
        [recall_of(by_id[id_].exact_filtered or (), found.distances) for id_, found in results.filtered.items()]
    )
    assert recall is not None
    p50, p95 = percentiles([sorted(times)[len(times) // 2] for times in results.times.values()])
    return Figures(index, how, recall, filtered, p50, p95, bool(results.by_default))
