"""The swap: in one short transaction the live tables leave for a schema that keeps them, and the staged ones come in.

No session is ended and nothing is dropped; on an idle server the transaction takes about a millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from psycopg import errors
from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.backup.grants import grant_again, grants_on
from tasks.core.backup.loss import TableLoss, loss_report
from tasks.core.backup.manifest import Backup
from tasks.core.backup.restore import Staged, move_objects
from tasks.core.backup.salvage import Salvage, Salvaged
from tasks.core.backup.shutting_out import shut_out_at_once, shut_out_everybody, shut_out_writers
from tasks.core.errors import RollbackFailed, RollbackRefused
from tasks.core.operations import journal
from tasks.core.operations.operation import Operation
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.schema import ledger


@dataclass(frozen=True)
class Swapped:
    """`replaced` is the schema that keeps the tables that were live; None where there were none."""

    replaced: str | None
    loss: tuple[TableLoss, ...]
    salvaged: Salvaged | None = None


def foreign_dependents(conn: Connection, schema: str, tables: Sequence[str]) -> tuple[str, ...]:
    """Views, foreign keys, publications and the like of others that hang on our tables."""
    values = {"schema": schema, "tables": list(tables)}
    return tuple(row[0] for row in conn.execute(query("foreign_dependents"), values))


def swap(
    operation: Operation, found: Staged, live: Sequence[str], *, accept_loss: bool, salvage: bool = False
) -> Swapped:
    """Put the staged tables in the place of the `live` ones. Raises RollbackFailed, with nothing changed, where others'
    objects hang on them, or rows would be lost and `accept_loss` is not set. With `salvage` only those that do not fit
    into the restored tables are lost, and they are in the store.
    """
    schema = operation.settings.database.schema_name
    replaced = f"kg_replaced_{datetime.now(UTC):%Y%m%dT%H%M%SZ}" if live else None
    with operation.step("swap", replaced=replaced), operation.session("swap", autocommit=False) as conn:
        _refuse_dependents(conn, schema, live)
        with database_errors("swapping the restored tables in"):
            loss, saved = _shut_out(conn, operation, found, live, accept_loss=accept_loss, salvage=salvage)
            _exchange(conn, schema, replaced, found, live)
            salvaged = _give_back(operation, conn, saved, replaced or "", found, accept_loss=accept_loss)
            merge_ledger(conn, operation, found.backup, found.entries)
            operation.guard(conn)
            conn.commit()
    return Swapped(replaced, loss, salvaged)


def _shut_out(
    conn: Connection, operation: Operation, found: Staged, live: Sequence[str], *, accept_loss: bool, salvage: bool
) -> tuple[tuple[TableLoss, ...], Salvage | None]:
    """Nobody has the live tables any more; what would be lost, and what of it was exported. A few attempts, as a
    migration has; the first half of them lets readers go on while it counts. Raises RollbackRefused, nothing changed.
    """
    schema, attempts = operation.settings.database.schema_name, operation.settings.database.lock_attempts
    for attempt in range(1, attempts + 1):
        saved, gently = None, attempt <= attempts // 2
        try:
            (shut_out_writers if gently else shut_out_at_once)(conn, schema, live)
            # Made now that the last writer is out: what was shown before may be a minute old. Readers go on meanwhile.
            loss = loss_report(conn, schema, found.schema)
            saved = Salvage(operation, conn, schema, found.schema) if salvage and loss and live else None
            if loss and not (accept_loss or saved):
                conn.rollback()
                raise loss_refused(operation, found, loss)
            if saved:
                saved.take(loss)
            if gently:
                shut_out_everybody(conn, schema, live)
            return loss, saved
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            conn.rollback()
            if saved:
                saved.discard()
            if attempt == attempts:
                raise
    raise AssertionError("lock_attempts is at least 1")


def _give_back(
    operation: Operation, conn: Connection, saved: Salvage | None, replaced: str, found: Staged, *, accept_loss: bool
) -> Salvaged | None:
    if saved is None:
        return None
    salvaged = saved.give_back(replaced)
    if salvaged.unfit and not accept_loss:
        conn.rollback()
        saved.discard()
        environment = operation.settings.environment
        raise RollbackFailed(
            f"not all that was written since backup {found.backup.id} fits into it: {'; '.join(salvaged.unfit)}; "
            "nothing was changed",
            hint=f"to go without, with an export in the store: kg rollback {environment} --strategy restore "
            f"--backup {found.backup.id} --salvage --yes",
        )
    return salvaged


def loss_refused(operation: Operation, found: Staged, loss: Sequence[TableLoss]) -> RollbackRefused:
    environment = operation.settings.environment
    listed = "; ".join(map(str, loss))
    command = f"kg rollback {environment} --strategy restore --backup {found.backup.id}"
    return RollbackRefused(
        f"restoring backup {found.backup.id} would discard what was written since ({listed}); nothing was changed",
        hint=f"to discard it: {command} --yes; to carry over what still fits: {command} --salvage at a terminal, or "
        f"in a script {command} --salvage --yes, which discards what fits no more (its export stays in the store)",
    )


def _refuse_dependents(conn: Connection, schema: str, live: Sequence[str]) -> None:
    dependents = foreign_dependents(conn, schema, live)
    conn.rollback()
    if dependents:
        raise RollbackRefused(
            f"others' objects hang on our tables and would follow the replaced ones: {'; '.join(dependents)}",
            hint="drop them, roll back, and make them again",
        )


def _exchange(conn: Connection, schema: str, replaced: str | None, found: Staged, live: Sequence[str]) -> None:
    grants = grants_on(conn, schema, live, found.schema)
    if replaced:
        conn.execute(SQL("CREATE SCHEMA {}").format(Identifier(replaced)))
        move_objects(conn, schema, replaced, live)
    move_objects(conn, found.schema, schema, found.tables)
    grant_again(conn, schema, grants)


def merge_ledger(conn: Connection, operation: Operation, backup: Backup, entries: Sequence[ledger.Entry]) -> None:
    """Revisions that are no longer in the schema are superseded; those of the backup that we lack are applied again."""
    in_backup = {entry.revision: entry for entry in entries}
    ours = {entry.revision: entry for entry in ledger.entries(conn)}
    gone = [revision for revision in ours if revision not in in_backup]
    ledger.supersede(conn, gone, operation=operation.id)
    for revision, entry in in_backup.items():
        if revision not in ours:
            ledger.record_restored(conn, entry, operation=operation.id, backup=backup.id)
    # The copy's fingerprint is the manifest's: what the backup's ledger calls verified is so again.
    again = [entry.revision for entry in entries if entry.verified_at and entry.revision not in ours]
    ledger.mark_verified(conn, again)
    # In the swap's own transaction: a run that died says "restored" exactly when it was.
    journal.describe(conn, operation.id, {"restored_from": backup.id})
