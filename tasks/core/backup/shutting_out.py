"""Keeping others out of our tables for a swap: writers while what was written is counted, everybody only at its end.

From EXCLUSIVE to ACCESS EXCLUSIVE a lock is raised, and whoever has read in a transaction and now waits for us to write
would be a deadlock that PostgreSQL ends, perhaps at that one's cost. So nobody of that kind may wait when it is tried,
and it is tried for less than the second (deadlock_timeout) after which a deadlock is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import errors
from psycopg.sql import SQL, Composed, Identifier

from sql import query
from tasks.core.postgres.connections import Connection


def shut_out_writers(conn: Connection, schema: str, tables: Sequence[str]) -> None:
    """Readers go on. Raises errors.LockNotAvailable where somebody writes for longer than lock_timeout."""
    if tables:
        conn.execute(SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(_listed(schema, tables)))


def shut_out_at_once(conn: Connection, schema: str, tables: Sequence[str]) -> None:
    """Readers and writers together, for the whole of lock_timeout, which reads may need that take long. Raises
    errors.LockNotAvailable.
    """
    if tables:
        conn.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(_listed(schema, tables)))


def shut_out_everybody(conn: Connection, schema: str, tables: Sequence[str]) -> None:
    """In the transaction that has shut out the writers. Raises errors.LockNotAvailable where somebody reads for longer
    than half a second, or waits to write what was read.
    """
    if not tables:
        return
    if conn.execute(query("waits_to_write_what_it_read"), {"schema": schema, "tables": list(tables)}).fetchone():
        raise errors.LockNotAvailable("somebody who has read our tables waits to write to them")
    conn.execute(query("wait_half_a_second"))
    shut_out_at_once(conn, schema, tables)


def _listed(schema: str, tables: Sequence[str]) -> Composed:
    return SQL(", ").join(Identifier(schema, table) for table in tables)
