"""Who blocks a session of ours: asked from beside while it waits, since a waiting session cannot ask. On request those
that block it by idling in a transaction are ended, after they were shown.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import errors

from sql import query
from tasks.core.postgres.connections import Connection
from tasks.core.progress import note

log = logging.getLogger(__name__)

_INTERVAL = 0.3  # seconds; work that ends sooner costs no second connection


@dataclass(frozen=True)
class Blocker:
    """A session that holds what another waits for: what it runs, or ran last, and since when its transaction lasts."""

    pid: int
    user: str
    state: str
    since: datetime
    query: str

    @property
    def idle(self) -> bool:
        return self.state.startswith("idle in transaction")

    def __str__(self) -> str:
        said = f": {self.query}" if self.query else ""
        return f"pid {self.pid} ({self.user}, {self.state} since {self.since:%Y-%m-%d %H:%M:%S %Z}){said}"


@contextmanager
def noting_blockers(
    conn: Connection, what: str, *, end_idle_after: timedelta | None = None
) -> Iterator[dict[int, Blocker]]:
    """While the block runs, note each session that makes `conn` wait, once. Yields them by process id.

    With `end_idle_after` a noted session that has been idle in its transaction for longer is ended, and that is noted.
    """
    seen: dict[int, Blocker] = {}
    done = threading.Event()
    words = {**conn.info.get_parameters(), "password": conn.info.password, "application_name": "kg watch"}
    watch = (_watch, words, conn.info.backend_pid, what, seen, done, end_idle_after)
    thread = threading.Thread(target=contextvars.copy_context().run, args=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join(timeout=5)


def _watch(
    words: dict[str, str],
    pid: int,
    what: str,
    seen: dict[int, Blocker],
    done: threading.Event,
    end_idle_after: timedelta | None,
) -> None:
    if done.wait(_INTERVAL):
        return
    try:
        with psycopg.connect(**words, autocommit=True) as conn:  # type: ignore[arg-type]
            while not done.wait(_INTERVAL):
                for blocker in blockers_of(conn, pid):
                    if blocker.pid not in seen:
                        seen[blocker.pid] = blocker
                        note(f"{what} waits for {blocker}")
                    elif end_idle_after is not None and blocker.idle:
                        _end_idle(conn, blocker, end_idle_after)
    except psycopg.Error as error:
        log.debug("who blocks cannot be told: %s", error)  # the work itself goes on


def _end_idle(conn: Connection, blocker: Blocker, limit: timedelta) -> None:
    """End it where it still idles in the transaction that was shown; the server judges how long, at that moment."""
    values = {"pid": blocker.pid, "since": blocker.since, "seconds": limit.total_seconds()}
    try:
        row = conn.execute(query("end_idle_blocker"), values).fetchone()
    except errors.InsufficientPrivilege:
        note(f"pid {blocker.pid} idles in a transaction, but this role may not end it: GRANT pg_signal_backend")
        return
    if row and row[0]:
        note(f"ended {blocker}: idle in its transaction for longer than {limit.total_seconds():.0f} s")


def blockers_of(conn: Connection, pid: int) -> tuple[Blocker, ...]:
    """Whom the backend `pid` waits for at this moment, longest transaction first."""
    return tuple(Blocker(*row) for row in conn.execute(query("blockers_of"), {"pid": pid}))
