"""Leftovers of dead runs: what the journal names is dropped, the rest is reported with the command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.errors import DatabaseError
from tasks.core.operations.operation import Operation
from tasks.core.postgres.connections import Connection, connect, database_errors
from tasks.core.postgres.scratch import sweep

# what was done, about what, why, and the command where it was only reported
Found = tuple[Literal["dropped", "reported"], str, str, str]


def drop_leftovers(operation: Operation, conn: Connection) -> Iterator[Found]:
    """Staging schemas, INVALID indexes and scratch databases that a run of ours made and did not live to drop."""
    yield from _schemas(conn)
    yield from _indexes(operation, conn)
    if operation.settings.scratch is not None:
        with connect(operation.settings.scratch, purpose="recover") as keeper:
            for name in sweep(keeper, [(dead.host, dead.pid) for dead in operation.abandoned]):
                yield "dropped", f"scratch database {name}", "a run that died had made it", ""


def _schemas(conn: Connection) -> Iterator[Found]:
    for name, ours in conn.execute(query("staging_schemas")).fetchall():
        statement = SQL("DROP SCHEMA {} CASCADE").format(Identifier(name))
        if not ours:
            yield "reported", f"schema {name}", "no run in the journal made it", statement.as_string(conn)
            continue
        with database_errors(f"dropping the staging schema {name}"):
            conn.execute(statement)
        yield "dropped", f"schema {name}", "a restore that died had staged its tables there", ""


def _indexes(operation: Operation, conn: Connection) -> Iterator[Found]:
    schema = operation.settings.database.schema_name
    for name, ours, being_built in conn.execute(query("invalid_indexes"), {"schema": schema}).fetchall():
        statement = SQL("DROP INDEX CONCURRENTLY {}").format(Identifier(schema, name))
        said = statement.as_string(conn)
        if being_built:
            yield "reported", f"index {name}", "INVALID, and being built at this moment", said
        elif not ours:
            yield "reported", f"index {name}", "INVALID, and no script of ours made it", said
        else:
            yield _drop_index(operation, conn, name, statement.as_string(conn))


def _drop_index(operation: Operation, conn: Connection, name: str, statement: str) -> Found:
    limit = operation.settings.reindex.blocked_timeout.total_seconds()
    # It waits for older transactions without blocking anybody: statement_timeout bounds that, not lock_timeout.
    for setting, value in (("lock_timeout", "0"), ("statement_timeout", f"{limit:.0f}s")):
        conn.execute(query("set_setting"), {"name": setting, "value": value})
    try:
        with database_errors(f"dropping the index {name}"):
            conn.execute(statement.encode())
    except DatabaseError as error:
        return "reported", f"index {name}", f"INVALID, and still there: {error.message}", statement
    return "dropped", f"index {name}", "a concurrent build of ours that was interrupted left it INVALID", ""
