"""One operation a database: the lock, the fence, and the sessions that work for it.

The lock lies on a connection of its own, which writes the journal too: who loses it can no longer say that a step was
done, and stops. A lock alone is not enough: a killed client's DDL goes on in the server after its lock is free. So
each session that writes for an operation holds a second key, shared, and a starter wants that key exclusively for a
moment: it starts only when no session of a dead run is left. And each transaction that changes something checks the
fencing number before it commits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg

from sql import query
from tasks.core.errors import DatabaseError, Refused
from tasks.core.operations import journal
from tasks.core.operations.sessions import acquire
from tasks.core.postgres.connections import Connection, connect, database_errors, refuse_shared_session, target
from tasks.core.progress import note
from tasks.core.schema import ledger
from tasks.core.settings import Settings

log = logging.getLogger(__name__)


@dataclass
class Operation:
    """The operation under way in this process. `fence` is its number in kg_ops; the newest one may commit."""

    settings: Settings
    kind: journal.Kind
    conn: Connection = field(repr=False)
    id: UUID = field(default_factory=uuid4)
    fence: int = 0
    # Operations that died; they stay unfinished in the journal until a deploy, rollback or recover has settled them.
    abandoned: tuple[journal.Unfinished, ...] = ()
    end_state: journal.EndState = "done"
    result: dict[str, Any] = field(default_factory=dict)
    # Has it said which revisions it is about to apply or to revert?
    changing: bool = False

    @contextmanager
    def step(self, name: str, **detail: Any) -> Iterator[dict[str, Any]]:
        """Journal a step before and after; what the block puts into the yielded dict is kept with its end."""
        self.write(name, "started", detail)
        outcome: dict[str, Any] = {}
        try:
            yield outcome
        except BaseException as error:
            self._write_failure(name, error)
            raise
        self.write(name, "done", outcome)

    def write(self, step: str, state: str, detail: dict[str, Any] | None = None) -> None:
        with database_errors(f"writing the journal of the {self.kind}"):
            journal.write(self.conn, self.id, step, state, detail or {})

    def describe(self, **detail: Any) -> None:
        self.changing = self.changing or not {"migrate", "revert"}.isdisjoint(detail)
        with database_errors(f"writing the journal of the {self.kind}"):
            journal.describe(self.conn, self.id, detail)

    @contextmanager
    def session(self, purpose: str, **options: Any) -> Iterator[Connection]:
        """A connection that works for this operation: it holds the workers' key as long as it lives."""
        assert self.settings.address is not None
        with connect(self.settings.address, purpose=purpose, database=self.settings.database, **options) as conn:
            conn.execute(query("share_workers_lock"))
            # Rows hidden by a policy would count as none, and be dropped as none: then it is an error instead.
            conn.execute("SET row_security = off")
            if not conn.autocommit:
                conn.commit()
            yield conn

    def guard(self, conn: Connection) -> None:
        """Called inside a transaction of a worker, before it commits: raises unless the operation is still ours."""
        row = conn.execute(query("check_fence"), {"fence": self.fence}).fetchone()
        if not row or not row[0] or self.conn.closed or not self._lock_alive():
            raise DatabaseError(
                f"the {self.kind} lost its lock on {self.settings.address} and stopped before committing",
                hint=f"see what happened meanwhile with `kg check {self.settings.environment}`, then run it again",
            )

    def _lock_alive(self) -> bool:
        try:
            self.conn.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def _write_failure(self, step: str, error: BaseException) -> None:
        self.end_state = "failed"
        try:
            journal.write(self.conn, self.id, step, "failed", {"error": type(error).__name__})
        except psycopg.Error:
            # The step's own error is the one to show; recover reads a started step without an end the same way.
            log.warning("the failure of step %s could not be written to the journal", step)


_BEGUN = "__kg_begun__"
_current: ContextVar[Operation | None] = ContextVar("operation", default=None)


def current() -> Operation:
    """The operation that this code runs in."""
    found = _current.get()
    assert found is not None, "called outside of an operation"
    return found


def within_another() -> bool:
    """Is an operation under way already, whose own run says how it ends?"""
    return _current.get() is not None


def had_begun(error: BaseException) -> bool:
    """Had the operation that `error` interrupted said which revisions it was about to apply or to revert?"""
    return bool(getattr(error, _BEGUN, False))


@contextmanager
def operation(settings: Settings, kind: journal.Kind, *, terminate: bool = False) -> Iterator[Operation]:
    """Hold the target's operation lock for the block; inside another operation on the same environment, that one.

    `terminate` ends the sessions of a dead run. Raises OperationRunning (exit 3) with who holds the lock,
    ConnectionFailed where no session could hold it.
    """
    outer = _current.get()
    if outer is not None:
        assert outer.settings.environment == settings.environment, "an operation stays in its environment"
        yield outer
        return
    settings = settings.model_copy(update={"address": target(settings)})
    assert settings.address is not None
    with connect(settings.address, purpose=f"{kind} lock") as conn, database_errors(f"starting the {kind}"):
        refuse_shared_session(conn, settings.address)
        started = _start(conn, settings, kind, terminate=terminate)
        token = _current.set(started)
        try:
            yield started
        except BaseException as error:
            started.end_state = "failed" if started.end_state == "done" else started.end_state
            interrupted = not isinstance(error, Exception)
            if interrupted:
                started.result["interrupted"] = True
                setattr(error, _BEGUN, started.changing)
            started.result |= {"refused": True} if isinstance(error, Refused) else {}
            raise
        else:
            interrupted = False
        finally:
            _current.reset(token)
            # Who is interrupted among revisions leaves what a dead run leaves, and the next run settles it as that.
            if not (interrupted and started.changing):
                _finish(started)
            started.conn.close()  # not `conn` any more after the exchange of a whole database


def _start(conn: Connection, settings: Settings, kind: journal.Kind, *, terminate: bool) -> Operation:
    conn.execute("SET synchronous_commit = on")
    conn.execute("SET statement_timeout = '60s'")
    acquire(conn, settings.environment, kind, terminate=terminate)
    ledger.ensure(conn)
    ledger.identity(conn)
    started = Operation(settings=settings, kind=kind, conn=conn)
    started.fence = journal.begin(conn, started.id, kind, settings.environment)
    started.abandoned = journal.unfinished(conn, started.id)
    for dead in started.abandoned:
        note(f"an earlier {dead.kind} of {dead.started_at:%Y-%m-%d %H:%M} UTC died at {dead.step or 'its start'}")
    return started


def _finish(ended: Operation) -> None:
    try:
        journal.finish(ended.conn, ended.id, ended.end_state, ended.result)
    except psycopg.Error:
        # Nothing is lost: the next operation finds this one unfinished and reads its journal.
        log.warning("the end of the %s could not be written to the journal", ended.kind)
