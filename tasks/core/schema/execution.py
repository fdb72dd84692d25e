"""Runs one migration file in a database.

A transactional migration and its ledger row are one transaction, retried whole where its locks are not granted. A
`no-transaction` migration cannot be that: its statements are committed one by one and the ledger row after the last,
so its file must be re-runnable: after a failure the next deploy runs it again from its top.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.errors import MigrationFailed
from tasks.core.postgres.connections import Connection
from tasks.core.progress import note
from tasks.core.schema.blockers import Blocker, noting_blockers
from tasks.core.schema.extension import limit_hint
from tasks.core.schema.scripts import Script
from tasks.core.schema.statements import Statement
from tasks.core.settings import DatabaseSettings

Callback = Callable[[Connection], None]


class Observer(Protocol):
    """Looks on while a script runs: `before` its first statement, each time it is tried, and `after` each statement,
    in the same transaction where the script is one.
    """

    def before(self, conn: Connection, script: Script) -> None: ...
    def after(self, conn: Connection, statement: Statement, seconds: float, rows: int) -> None: ...


_LOCKED = (errors.LockNotAvailable, errors.DeadlockDetected)
_LONGEST_PAUSE = 5.0  # seconds between two attempts

# What to do next, where the server's own hint is missing or would send an operator the wrong way.
_HINTS = {
    "25001": "say `-- migrate: no-transaction` at the file's top: this statement cannot run in a transaction",
    "3F000": "the schema that the environment's TOML names ([database] schema) does not exist in this database",
    "57014": "statement_timeout in the environment's TOML ([database]) or the maintenance window's end was reached, or "
    "someone cancelled it",
    "53100": "the server's disk is full: free space there, then run it again",
}
_VECTOR_HINTS = {
    "0A000": "install pgvector on the server (package postgresql-<major>-pgvector); on Supabase: Dashboard, Extensions",
    "58P01": "install pgvector on the server (package postgresql-<major>-pgvector); on Supabase: Dashboard, Extensions",
    "42501": "a superuser runs, in this database: CREATE EXTENSION vector",
}


def search_path(conn: Connection, schema: str) -> str:
    """`schema`, then where the extension vector lives (`extensions` on Supabase), quoted for SET search_path."""
    row = conn.execute(query("schema_of_extension"), {"name": "vector"}).fetchone()
    schemas = dict.fromkeys([schema, *(row or ())])
    return SQL(", ").join(Identifier(name) for name in schemas).as_string(conn)


def run_script(
    conn: Connection,
    script: Script,
    database: DatabaseSettings,
    record: Callback,
    before: Callback | None,
    observer: Observer | None = None,
) -> None:
    """See migrations.apply. `conn` may be in autocommit mode or not, but is idle: the transaction is ours alone."""
    assert conn.info.transaction_status == TransactionStatus.IDLE
    limit = database.idle_blocker_limit if database.terminate_idle_blockers else None
    with noting_blockers(conn, script.path.name, end_idle_after=limit) as blockers:
        attempts = _Attempts(database.lock_attempts, blockers)
        if script.transactional:
            attempts.run(lambda: _whole(conn, script, database, record, before, observer))
        else:
            if before:
                _in_transaction(conn, script, before)
            if observer:
                observer.before(conn, script)
            _one_by_one(conn, script, database, attempts, observer)
            _finish(conn, script, database, record)


def _whole(
    conn: Connection,
    script: Script,
    database: DatabaseSettings,
    record: Callback,
    before: Callback | None,
    observer: Observer | None,
) -> None:
    def work(conn: Connection) -> None:
        _set(conn, _values(conn, database), local=True)
        if before:
            before(conn)
        if observer:
            observer.before(conn, script)
        for statement in script.statements:
            _execute(conn, script, statement, observer=observer)
        record(conn)

    _in_transaction(conn, script, work)


def _in_transaction(conn: Connection, script: Script, work: Callback) -> None:
    try:
        with conn.transaction():
            work(conn)
    except psycopg.Error as error:  # of the ledger row, or of COMMIT (a deferred constraint)
        raise _failure(script, None, error) from error


def _one_by_one(
    conn: Connection, script: Script, database: DatabaseSettings, attempts: _Attempts, observer: Observer | None
) -> None:
    committed = 0
    with _session(conn, _values(conn, database)):
        try:
            for statement in script.statements:
                _one(conn, script, statement, database, attempts, observer)
                committed += 1
        except MigrationFailed as failure:
            if committed:
                failure.hint = "; ".join(filter(None, (failure.hint, _committed(script, committed))))
            raise


def _one(
    conn: Connection,
    script: Script,
    statement: Statement,
    database: DatabaseSettings,
    attempts: _Attempts,
    observer: Observer | None,
) -> None:
    if not statement.concurrent:
        attempts.run(lambda: _execute(conn, script, statement, observer=observer))
        return
    # It waits for older snapshots without blocking anybody; a lock_timeout would leave an invalid index behind.
    _set(conn, {"lock_timeout": "0"}, local=False)
    _execute(conn, script, statement, observer=observer)
    _set(conn, {"lock_timeout": _milliseconds(database.lock_timeout)}, local=False)


def _committed(script: Script, count: int) -> str:
    return f"the first {count} of its {len(script.statements)} statements are committed, and run again next time"


def _finish(conn: Connection, script: Script, database: DatabaseSettings, record: Callback) -> None:
    def work(conn: Connection) -> None:
        _set(conn, {"synchronous_commit": "on"}, local=True)
        _refuse_unfinished_indexes(conn, script, database.schema_name)
        record(conn)

    _in_transaction(conn, script, work)


def _refuse_unfinished_indexes(conn: Connection, script: Script, schema: str) -> None:
    """`IF NOT EXISTS` passes over the invalid index of an earlier failure: the ledger must not call that applied."""
    names = [str(row[0]) for row in conn.execute(query("unfinished_indexes"), {"schema": schema})]
    if names:
        raise MigrationFailed(
            f"{script.path.name}: index {', '.join(names)} in schema {schema} is not valid",
            hint="; ".join(f'DROP INDEX CONCURRENTLY "{schema}"."{name}"' for name in names) + "; then run it again",
        )


class _Attempts:
    """Tries again, after a growing pause, what a lock kept from being done."""

    def __init__(self, limit: int, blockers: Mapping[int, Blocker]) -> None:
        self.limit, self.blockers = limit, blockers

    def run(self, work: Callable[[], None]) -> None:
        for attempt in range(1, self.limit + 1):
            try:
                return work()
            except MigrationFailed as failure:
                if not isinstance(failure.__cause__, _LOCKED):
                    raise
                if attempt == self.limit:
                    self._give_up(failure)
                    raise
                self._pause(attempt, failure.message)
        raise AssertionError("lock_attempts is at least 1")

    def _pause(self, attempt: int, message: str) -> None:
        pause = min(0.25 * 2**attempt, _LONGEST_PAUSE)
        note(f"{message}; attempt {attempt + 1} of {self.limit} in {pause:.1f} s")
        time.sleep(pause)

    def _give_up(self, failure: MigrationFailed) -> None:
        who = "; ".join(str(blocker) for blocker in self.blockers.values())
        failure.hint = f"tried {self.limit} times; blocked by {who or 'a session that cannot be seen'}"
        if any(blocker.idle for blocker in self.blockers.values()):
            failure.hint += "; deploy --terminate-idle-blockers ends those that are idle in a transaction"


def _execute(conn: Connection, script: Script, statement: Statement, *, observer: Observer | None = None) -> None:
    began = time.monotonic()
    try:
        rows = conn.execute(statement.text.encode(), binary=True).rowcount  # one statement a call: see statements.py
    except psycopg.Error as error:
        raise _failure(script, statement, error) from error
    if observer:
        observer.after(conn, statement, time.monotonic() - began, max(rows, 0))


def _failure(script: Script, statement: Statement | None, error: psycopg.Error) -> MigrationFailed:
    diagnosis, code = error.diag, error.sqlstate or "connection lost"
    place = script.path.name
    if statement is not None:
        line, column = statement.place(int(diagnosis.statement_position or 1))
        place = f"{place}:{line}:{column}"
    message = diagnosis.message_primary or str(error).strip().partition("\n")[0]
    if diagnosis.message_detail:
        message = f"{message}: {diagnosis.message_detail}"
    hint = _HINTS.get(code) or limit_hint(message)
    if statement is None and "kg_ops" in message:
        hint = "the script must leave kg_ops and its rights alone, and end as the role it began as (RESET ROLE)"
    if 'extension "vector"' in message:
        hint = _VECTOR_HINTS.get(code, hint)
    return MigrationFailed(f"{place}: {message} ({code})", hint=hint or diagnosis.message_hint)


def _milliseconds(duration: timedelta) -> str:
    return f"{int(duration.total_seconds() * 1000)}ms"


def _set(conn: Connection, values: Mapping[str, str], *, local: bool) -> None:
    for name, value in values.items():
        conn.execute(query("set_migration_setting"), {"name": name, "value": value, "local": local})


def _values(conn: Connection, database: DatabaseSettings) -> dict[str, str]:
    return {
        "search_path": search_path(conn, database.schema_name),
        "lock_timeout": _milliseconds(database.lock_timeout),
        "statement_timeout": _milliseconds(database.statement_timeout),
        "synchronous_commit": "on",
        "standard_conforming_strings": "on",  # statements.py reads backslashes so
    }


@contextmanager
def _session(conn: Connection, values: Mapping[str, str]) -> Iterator[None]:
    """`values` for the session, in autocommit mode; what it had before comes back."""
    conn.rollback()
    autocommit, conn.autocommit = conn.autocommit, True
    before: dict[str, str] = dict(conn.execute(query("session_settings"), {"names": list(values)}).fetchall())
    _set(conn, values, local=False)
    try:
        yield
    finally:
        if not conn.closed:
            _set(conn, before, local=False)
            conn.autocommit = autocommit
