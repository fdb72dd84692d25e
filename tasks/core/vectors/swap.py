"""The new index takes the old one's name, in one transaction; searches run on either meanwhile, never on none."""

from __future__ import annotations

import time
from collections.abc import Callable

from psycopg import errors
from psycopg.sql import Identifier, Literal

from sql import query
from tasks.core.operations.operation import Operation
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.progress import note
from tasks.core.schema.blockers import noting_blockers
from tasks.core.vectors.indexes import Target

_LONGEST_PAUSE = 5.0  # seconds between two attempts


def swap(operation: Operation, target: Target, new: str, old: str, record: Callable[[Connection], None]) -> None:
    """Index `new` becomes `target.name`; the one that has it, if any, becomes `old`. Both or neither.

    `record` writes the ledger's row in the same transaction. Renaming an index locks that index alone, and shuts out
    neither searches nor writes. Raises DatabaseError after `lock_attempts` attempts; nothing has changed then.
    """
    settings = operation.settings.database
    with (
        operation.session("re-index swap") as conn,
        noting_blockers(conn, "the swap"),
        database_errors(f"swapping {target.name}"),
    ):
        for attempt in range(1, settings.lock_attempts + 1):
            try:
                _rename(operation, conn, target, new, old, record)
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                if attempt == settings.lock_attempts:
                    raise
                note(f"the swap did not get its lock, attempt {attempt} of {settings.lock_attempts}")
                time.sleep(min(_LONGEST_PAUSE, 0.5 * 2**attempt))
            else:
                return


def _rename(
    operation: Operation, conn: Connection, target: Target, new: str, old: str, record: Callable[[Connection], None]
) -> None:
    schema = target.column.schema
    with conn.transaction():
        if target.found:
            conn.execute(query("rename_index").format(name=Identifier(schema, target.name), new_name=Identifier(old)))
        conn.execute(query("rename_index").format(name=Identifier(schema, new), new_name=Identifier(target.name)))
        if target.found and target.found.comment:
            words = {"name": Identifier(schema, target.name), "comment": Literal(target.found.comment)}
            conn.execute(query("comment_on_index").format(**words))
        record(conn)
        operation.guard(conn)
