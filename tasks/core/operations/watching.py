"""The first while after a migration: does the database do worse than it may? Deadlocks, rollbacks, errors, and how long
the application's search takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle

import psycopg

from sql import query
from tasks.core.application.health import check_health
from tasks.core.application.session import application_session
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.progress import track
from tasks.core.schema.report import CheckResult, Report, failed, ok, run_check, skipped
from tasks.core.settings import Settings, WatchSettings


@dataclass(frozen=True)
class Counters:
    """Of the database, since its statistics began."""

    deadlocks: int
    commits: int
    rollbacks: int

    def since(self, earlier: Counters) -> Counters:
        return Counters(
            self.deadlocks - earlier.deadlocks, self.commits - earlier.commits, self.rollbacks - earlier.rollbacks
        )

    @property
    def share(self) -> float:
        """Of the transactions that were rolled back, 0 to 1."""
        return self.rollbacks / max(self.commits + self.rollbacks, 1)


@dataclass
class _Seen:
    searches: list[float] = field(default_factory=list)  # milliseconds
    errors: list[str] = field(default_factory=list)


def watch(settings: Settings) -> Report:
    """Look on for `[watch] duration`, asking once an `interval`. Raises ConnectionFailed, DatabaseError."""
    wanted, seen = settings.watch, _Seen()
    with application_session(settings, "watch") as (conn, _), database_errors("watching the database"):
        before = _counters(conn)
        probes = [str(row[0]) for row in conn.execute(query("watch_probes"))]
        vectors = cycle(probes) if probes else iter(())
        for _ in _ticks(wanted):
            _search(conn, vectors, seen)
            if settings.application.health_url:
                health = run_check("health", lambda: check_health(settings))
                seen.errors += [health.detail] if health.status == "failed" else []
        found = _counters(conn).since(before)
    return Report(
        (_deadlocks(wanted, found), _rollbacks(wanted, before, found), _errors(wanted, seen), _p95(wanted, seen))
    )


def _ticks(wanted: WatchSettings) -> Iterator[None]:
    total, began = wanted.duration.total_seconds(), time.monotonic()
    with track("watch", "Watch", total=total, unit="seconds") as progress:
        while (passed := time.monotonic() - began) < total:
            yield
            progress.reach(passed)
            time.sleep(min(wanted.interval.total_seconds(), max(total - passed, 0)))


def _counters(conn: Connection) -> Counters:
    row = conn.execute(query("watch_counters")).fetchone()
    assert row
    return Counters(*map(int, row))


def _search(conn: Connection, vectors: Iterator[str], seen: _Seen) -> None:
    vector = next(vectors, None)
    if vector is None:
        return
    began = time.monotonic()
    try:
        conn.execute(query("watch_search"), {"vector": vector})
    except psycopg.Error as error:
        if conn.broken:
            raise
        seen.errors.append(f"a probe search failed: {error.diag.message_primary}")
    else:
        seen.searches.append((time.monotonic() - began) * 1000)


def _deadlocks(wanted: WatchSettings, found: Counters) -> CheckResult:
    said = f"{found.deadlocks} in {wanted.duration.total_seconds():.0f} s"
    if found.deadlocks > wanted.deadlocks:
        return failed("deadlocks", f"{said}, and may be {wanted.deadlocks}", "the server's log has both statements")
    return ok("deadlocks", said)


def _rollbacks(wanted: WatchSettings, before: Counters, found: Counters) -> CheckResult:
    """An application that always rolled back much is not the migration's fault: twice its own share is."""
    said = f"{found.rollbacks} of {found.commits + found.rollbacks} transactions ({found.share:.1%})"
    allowed = max(wanted.rollback_share, 2 * before.share)
    if found.rollbacks >= wanted.rollbacks_at_least and found.share > allowed:
        detail = f"{said}; at most {allowed:.1%} were expected, {before.share:.1%} were so before"
        return failed("rollbacks", detail, "the application's log says which statements fail")
    return ok("rollbacks", said)


def _errors(wanted: WatchSettings, seen: _Seen) -> CheckResult:
    if len(seen.errors) > wanted.errors:
        return failed("errors", f"{len(seen.errors)}, the first: {seen.errors[0]}")
    return ok("errors", f"{len(seen.errors)}")


def _p95(wanted: WatchSettings, seen: _Seen) -> CheckResult:
    name = "search P95"
    if not seen.searches:
        return skipped(name, "no vector is stored to search for")
    ordered = sorted(seen.searches)
    p95 = ordered[min(int(len(ordered) * 0.95), len(ordered) - 1)]
    said = f"{p95:.1f} ms over {len(ordered)} probe searches"
    if p95 > wanted.p95_ms:
        return failed(name, f"{said}, more than {wanted.p95_ms:.0f} ms", "kg reindex ENVIRONMENT says what is wrong")
    return ok(name, said)
