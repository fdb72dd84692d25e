"""Who is at work in the database: taking the operation's lock from nobody but the dead.

A killed client's lock is free at once, its statement may go on in the server for long. So a starter waits for every
session that works for an operation, and recover ends them when told to, after naming them. The session of a process
that still runs on this machine is never ended.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime

from sql import query
from tasks.core.errors import OperationRunning
from tasks.core.postgres.connections import Connection
from tasks.core.progress import note
from tasks.core.schema import ledger

# A dead client's statement ends within client_connection_check_interval, a second; older servers need longer.
PATIENCE_SECONDS = 15.0
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Session:
    """A session of an operation. `alive`: its process still runs on this machine; None: it cannot be known."""

    pid: int
    user: str
    application: str
    host: str | None
    since: datetime
    statement: str
    alive: bool | None

    def __str__(self) -> str:
        where = f" from {self.host}" if self.host else ""
        return f"{self.application} (pid {self.pid}, {self.user}{where}, since {self.since:%H:%M:%S})"


def acquire(conn: Connection, environment: str, kind: str, *, terminate: bool = False) -> None:
    """The operation's lock for this session, once every session of an earlier operation is gone.

    Raises OperationRunning (exit 3): at once where another operation may be under way, else after PATIENCE_SECONDS.
    `terminate` ends the sessions of a dead run instead of waiting for them.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    ended: set[int] = set()
    while not _granted(conn, "try_operation_lock"):
        holders = _sessions(conn, "lock_holders")
        if terminate:
            _end(conn, environment, holders, ended)
        elif any(each.alive or (each.alive is None and kind != "recover") for each in holders):
            raise _running(environment, holders)
        _wait(deadline, _running(environment, holders))
    while not _granted(conn, "try_workers_lock"):
        _linger(conn, environment, kind, deadline, ended, terminate=terminate)
    conn.execute(query("release_workers_lock"))
    while _sessions(conn, "stage_sessions"):
        _linger(conn, environment, kind, deadline, ended, terminate=terminate)


def _linger(
    conn: Connection, environment: str, kind: str, deadline: float, ended: set[int], *, terminate: bool
) -> None:
    workers = (*_sessions(conn, "worker_sessions"), *_sessions(conn, "stage_sessions"))
    if terminate:
        _end(conn, environment, workers, ended)
    _wait(
        deadline,
        OperationRunning(
            f"a session of an earlier operation still works in the {environment} database: {_names(workers)}",
            hint=f"the {kind} starts when it is gone; `kg recover {environment} --terminate` ends it",
        ),
    )


def _running(environment: str, holders: tuple[Session, ...]) -> OperationRunning:
    return OperationRunning(
        f"another operation holds the {environment} database: {_names(holders)}",
        hint=f"wait for its end; where its process is dead, `kg recover {environment} --terminate` ends its sessions",
    )


def _end(conn: Connection, environment: str, sessions: tuple[Session, ...], ended: set[int]) -> None:
    alive = tuple(each for each in sessions if each.alive)
    if alive:
        raise OperationRunning(
            f"an operation is under way on this machine: {_names(alive)}", hint="interrupt it there, or wait for it"
        )
    for each in sessions:
        if each.pid not in ended:
            note(f"ending {each} of {environment}, which runs: {each.statement or 'nothing'}")
            conn.execute(query("end_session"), {"pid": each.pid})
            ended.add(each.pid)


def _wait(deadline: float, late: OperationRunning) -> None:
    if time.monotonic() > deadline:
        raise late
    time.sleep(_PAUSE_SECONDS)


def _granted(conn: Connection, name: str) -> bool:
    row = conn.execute(query(name)).fetchone()
    return bool(row and row[0])


def _sessions(conn: Connection, name: str) -> tuple[Session, ...]:
    rows = conn.execute(query(name)).fetchall()
    owners = _owners(conn) if rows else {}
    return tuple(
        Session(pid, user, application, host, since, statement, owners.get(pid))
        for pid, user, application, host, since, statement in rows
    )


def _owners(conn: Connection) -> dict[int, bool | None]:
    """By the pid of an operation's lock session: does its process still run? None where it is another machine's."""
    if not ledger.exists(conn):
        return {}
    here = socket.gethostname()
    found = conn.execute(query("running_processes")).fetchall()
    return {backend: _is_alive(pid) if host == here else None for backend, host, pid in found}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _names(sessions: tuple[Session, ...]) -> str:
    return "; ".join(map(str, sessions)) or "it has just ended"
