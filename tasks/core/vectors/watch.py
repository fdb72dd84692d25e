"""What goes on while an index is built: how far it is, for whom it waits, and whether its graph still fits.

A concurrent build gets no lock_timeout: with one it would fail and leave an invalid index. This watch bounds it
instead, from a session beside it, and names whom it waited for.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from psycopg.rows import class_row

from sql import query
from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect
from tasks.core.progress import Track, note, track
from tasks.core.schema.blockers import blockers_of

log = logging.getLogger(__name__)

_INTERVAL = 0.5  # seconds
_SAY_EVERY = 30.0  # seconds between two words about how long it still takes
_STALLED = 120.0  # seconds without a single row

BUILDING = "building index"


@dataclass(frozen=True)
class Progress:
    """A row of pg_stat_progress_create_index."""

    phase: str
    tuples_done: int
    tuples_total: int
    blocks_done: int
    blocks_total: int
    lockers_done: int
    lockers_total: int
    current_locker_pid: int | None


@dataclass
class Watch:
    """What was seen. `cancelled` says why the watch ended the build, "" where it did not."""

    pid: int
    rows: int
    blocked_seconds: float
    phases: list[str] = field(default_factory=list)
    workers: int = 0
    waited_for: dict[int, str] = field(default_factory=dict)
    cancelled: str = ""
    _blocked_since: float | None = None
    _moved: tuple[int, float] = (0, 0.0)
    _building_since: float = 0.0
    _said: float = 0.0

    def look(self, conn: Connection, bar: Track) -> None:
        """One look from `conn`, which is another session than the builder's."""
        with conn.cursor(row_factory=class_row(Progress)) as cursor:
            seen = cursor.execute(query("build_progress"), {"pid": self.pid}).fetchone()
        if seen:
            self._see_phase(seen)
        if seen and seen.phase.startswith(BUILDING):
            self._see_rows(conn, seen, bar)
        self._see_blockers(conn)

    def _see_phase(self, seen: Progress) -> None:
        if not self.phases or self.phases[-1] != seen.phase:
            self.phases.append(seen.phase)
            log.info("building: %s", seen.phase)

    def _see_rows(self, conn: Connection, seen: Progress, bar: Track) -> None:
        now = time.monotonic()
        bar.reach(min(seen.tuples_done, self.rows))
        row = conn.execute(query("build_workers"), {"pid": self.pid}).fetchone()
        self.workers = max(self.workers, row[0] if row else 0)
        if not self._building_since:
            self._building_since = self._said = now
        if seen.tuples_done != self._moved[0] or not self._moved[1]:
            self._moved = (seen.tuples_done, now)
        elif now - self._moved[1] > _STALLED and seen.tuples_done < self.rows:
            note(f"the build has not moved for {now - self._moved[1]:.0f} s, at {seen.tuples_done:,} vectors")
            self._moved = (seen.tuples_done, now)
        if now - self._said >= _SAY_EVERY and 0 < seen.tuples_done < self.rows:
            self._said = now
            left = remaining_seconds(now - self._building_since, seen.tuples_done, self.rows)
            note(f"{seen.tuples_done / self.rows:.0%} of {self.rows:,} vectors, about {left:.0f} s to go")

    def _see_blockers(self, conn: Connection) -> None:
        found = blockers_of(conn, self.pid)
        if not found:
            self._blocked_since = None
            return
        for blocker in found:
            if blocker.pid not in self.waited_for:
                self.waited_for[blocker.pid] = str(blocker)
                note(f"the build waits for {blocker}")
        self._blocked_since = self._blocked_since or time.monotonic()
        if time.monotonic() - self._blocked_since > self.blocked_seconds and not self.cancelled:
            names = "; ".join(str(blocker) for blocker in found)
            self.cancelled = f"it waited longer than {self.blocked_seconds:.0f} s for {names}"
            conn.execute(query("cancel_session"), {"pid": self.pid})


def remaining_seconds(elapsed: float, done: int, total: int) -> float:
    """Seconds that the rest of `total` should take when `done` took `elapsed`; later rows take longer by a little."""
    return elapsed * (total / done) ** 1.1 - elapsed if done else float("inf")


@contextmanager
def watching(address: Address, pid: int, title: str, rows: int, blocked_seconds: float) -> Iterator[Watch]:
    """Look after the build of the backend `pid` while the block runs; its rows are a bar of the progress."""
    watch = Watch(pid, rows, blocked_seconds)
    done = threading.Event()
    with track(f"build-{pid}", title, total=rows, unit="vectors") as bar:
        arguments = (_watch, address, watch, bar, done)
        thread = threading.Thread(target=contextvars.copy_context().run, args=arguments, daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            done.set()
            thread.join(timeout=5)


def _watch(address: Address, watch: Watch, bar: Track, done: threading.Event) -> None:
    try:
        with connect(address, purpose="re-index watch") as conn:
            while not done.wait(_INTERVAL):
                watch.look(conn, bar)
    except Exception as error:  # whatever it is, the build goes on, and its own statement_timeout bounds it
        if not done.is_set():
            note(f"the build goes on unwatched: {error}".splitlines()[0])
