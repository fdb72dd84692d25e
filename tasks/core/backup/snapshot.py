"""One snapshot for everything: the session that counts holds it, and pg_dump imports it.

The order matters. Locks first: a table truncated between the snapshot and the dump's own lock would be empty in it.
Then the snapshot, exported and kept open until pg_dump is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg import Error as PostgresError
from psycopg import errors
from psycopg.sql import Literal

from sql import query
from tasks.core.backup.contents import Table, dumped_tables, lock_tables
from tasks.core.errors import BackupError
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.settings import DatabaseSettings

_ATTEMPTS = 5


@dataclass(frozen=True)
class Snapshot:
    """`name` for other sessions to import; `created` by the server's clock. `opened` is monotonic."""

    name: str
    created: datetime
    opened: float
    lsn: str
    tables: tuple[Table, ...]

    @property
    def held_seconds(self) -> float:
        return time.monotonic() - self.opened


def dumped_schemas(conn: Connection, settings: DatabaseSettings) -> list[str] | None:
    """The schemas to dump that there are: those of the scope, ours and kg_ops; None for the whole database."""
    if settings.scope == "database":
        return None
    wanted = {*settings.scope, settings.schema_name, "kg_ops"}
    with database_errors("looking for the schemas to dump"):
        found = [row[0] for row in conn.execute(query("existing_schemas"), {"schemas": list(wanted)})]
    if not found:
        raise BackupError(
            f"none of the schemas {', '.join(sorted(wanted))} is in {conn.info.dbname}",
            hint="correct database.scope of the environment's TOML",
        )
    return found


@contextmanager
def held_snapshot(
    conn: Connection, schemas: Sequence[str] | None, *, lock_timeout: timedelta, longest: timedelta
) -> Iterator[Snapshot]:
    """Lock what is dumped, take the snapshot, export it, and hold both for the block.

    The server itself ends the session when it holds them longer than `longest`. Raises PrivilegeMissing for a table
    that the role may not read, DatabaseError for one whose lock did not come in time.
    """
    lsn = _wal_position(conn)
    snapshot = None
    for _ in range(_ATTEMPTS):
        snapshot = _try(conn, schemas, lsn, lock_timeout, longest)
        if snapshot:
            break
    if snapshot is None:
        raise BackupError(
            "tables are made and dropped faster than they can be locked", hint="run it in a quieter moment"
        )
    try:
        yield snapshot
    finally:
        _end(conn)


def _try(
    conn: Connection, schemas: Sequence[str] | None, lsn: str, lock_timeout: timedelta, longest: timedelta
) -> Snapshot | None:
    """None where a table came or went between listing and locking."""
    tables = dumped_tables(conn, schemas)
    try:
        with database_errors("taking the backup's snapshot"):
            conn.execute(query("begin_snapshot"))
            _limit(conn, lock_timeout, longest)
            try:
                lock_tables(conn, tables)
            except errors.UndefinedTable:
                _end(conn)
                return None
            opened = time.monotonic()
            row = conn.execute(query("export_snapshot")).fetchone()
            assert row
        if dumped_tables(conn, schemas) != tables:
            _end(conn)
            return None
    except BaseException:
        _end(conn)
        raise
    return Snapshot(row[0], row[1].astimezone(UTC), opened, lsn, tables)


def join(conn: Connection, snapshot: Snapshot, *, lock_timeout: timedelta, longest: timedelta) -> None:
    """Begin a transaction of another session that sees the snapshot. Raises DatabaseError."""
    with database_errors("joining the backup's snapshot"):
        conn.execute(query("begin_snapshot"))
        conn.execute(query("import_snapshot").format(name=Literal(snapshot.name)))
        _limit(conn, lock_timeout, longest)


def _limit(conn: Connection, lock_timeout: timedelta, longest: timedelta) -> None:
    hold = Literal(round(longest.total_seconds() * 1000))
    waiting = Literal(round(lock_timeout.total_seconds() * 1000))
    conn.execute(query("limit_snapshot").format(lock_timeout=waiting, hold=hold))
    if conn.info.server_version >= 170000:
        conn.execute(query("limit_transaction").format(hold=hold))


def _end(conn: Connection) -> None:
    """Nothing was written: rolling back frees the locks. A session that the server has ended has freed them already."""
    with suppress(PostgresError):
        conn.rollback()


def _wal_position(conn: Connection) -> str:
    try:
        row = conn.execute(query("wal_position")).fetchone()
    except PostgresError:  # some providers keep it to themselves; the backup is as good without
        return ""
    return row[0] or "" if row else ""
