"""Who blocks a session of ours: asked from beside while it waits, since a waiting session cannot ask."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg

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

    def __str__(self) -> str:
        said = f": {self.query}" if self.query else ""
        return f"pid {self.pid} ({self.user}, {self.state} since {self.since:%Y-%m-%d %H:%M:%S %Z}){said}"


@contextmanager
def noting_blockers(conn: Connection, what: str) -> Iterator[dict[int, Blocker]]:
    """While the block runs, note each session that makes `conn` wait, once. Yields them by process id."""
    seen: dict[int, Blocker] = {}
    done = threading.Event()
    words = {**conn.info.get_parameters(), "password": conn.info.password, "application_name": "kg watch"}
    watch = (_watch, words, conn.info.backend_pid, what, seen, done)
    thread = threading.Thread(target=contextvars.copy_context().run, args=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join(timeout=5)


def _watch(words: dict[str, str], pid: int, what: str, seen: dict[int, Blocker], done: threading.Event) -> None:
    if done.wait(_INTERVAL):
        return
    try:
        with psycopg.connect(**words, autocommit=True) as conn:  # type: ignore[arg-type]
            while not done.wait(_INTERVAL):
                for blocker in blockers_of(conn, pid):
                    if blocker.pid not in seen:
                        seen[blocker.pid] = blocker
                        note(f"{what} waits for {blocker}")
    except psycopg.Error as error:
        log.debug("who blocks cannot be told: %s", error)  # the work itself goes on


def blockers_of(conn: Connection, pid: int) -> tuple[Blocker, ...]:
    """Whom the backend `pid` waits for at this moment, longest transaction first."""
    return tuple(Blocker(*row) for row in conn.execute(query("blockers_of"), {"pid": pid}))
