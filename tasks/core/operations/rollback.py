"""The ways back: revert, restore, reset, and the choice between them.

`auto` never discards data. It reverts what the deploy applied; where that cannot be, it restores only when nothing
written since the backup would be lost or the environment says `auto_restore = true`; else it fails, and names the
state, the loss and the one command that decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.application.own_commands import run_index_command
from tasks.core.backup.contents import identity_of
from tasks.core.backup.library import find
from tasks.core.backup.loss import loss_report, tables_in
from tasks.core.backup.restore import staged
from tasks.core.backup.swap import foreign_dependents, loss_refused, swap
from tasks.core.errors import OpsError, RollbackFailed, RollbackRefused
from tasks.core.operations.migrate import our_fingerprint
from tasks.core.operations.missing import missing_rows, said
from tasks.core.operations.operation import Operation
from tasks.core.operations.plan import known_expected
from tasks.core.operations.stakes import at_stake, count_rows
from tasks.core.operations.way_down import revertible, to_undo, why_nothing
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.progress import note, track
from tasks.core.schema import ledger
from tasks.core.schema.execution import Callback
from tasks.core.schema.expected import Expected
from tasks.core.schema.known import readable
from tasks.core.schema.migrations import Migration, revert
from tasks.core.schema.scripts import concurrent_indexes
from tasks.core.store.base import open_store

Strategy = Literal["auto", "revert", "restore", "reset"]


@dataclass(frozen=True)
class RolledBack:
    """`strategy` is what was done; `fingerprint` of the schema afterwards. `nothing` when there was nothing to undo."""

    strategy: Strategy
    nothing: bool
    fingerprint: str
    revision: str
    reverted: tuple[str, ...] = ()
    backup: str | None = None
    replaced: str | None = None
    """The schema that keeps the replaced tables, or "database <name>" that is the replaced one."""
    detail: str = ""
    missing: tuple[str, ...] = ()
    """Tables that have fewer rows after a revert than `compared`, the deploy's backup, counted."""
    compared: str | None = None


@dataclass(frozen=True)
class Request:
    """What is asked for. `yes`: rows may go (drops of tables with rows, a restore that loses what was written since).

    `only_operation`: undo no more than what the operation under way applied (a failed deploy's own rollback).
    `salvage`: what was written since is exported to the store, and applied again after a restore where it still fits.
    `to`: revert all that was applied above this revision ("none": all), and not only the newest deploy.
    """

    strategy: Strategy = "auto"
    backup: str | None = None
    yes: bool = False
    only_operation: bool = False
    salvage: bool = False
    to: str = ""


def roll_back(operation: Operation, request: Request) -> RolledBack:
    """Undo by the strategy asked for. Raises RollbackFailed, with the state named and nothing half-done."""
    ways = {"auto": _auto, "revert": _revert, "restore": _restore, "reset": _reset}
    with operation.session("rollback") as conn:
        expected = known_expected(conn, operation.settings)
        return ways[request.strategy](operation, request, conn, expected)


def _auto(operation: Operation, request: Request, conn: Connection, expected: Expected) -> RolledBack:
    entries = to_undo(conn, request.to, only=operation.id if request.only_operation else None)
    if not entries:
        return _outcome(operation, conn, expected, "auto", nothing=True, detail=why_nothing(conn, request.to))
    try:
        # Whatever was confirmed: discarding rows has to be asked for by the name of the strategy that does it.
        undone = _revert(operation, replace(request, yes=False), conn, expected)
    except OpsError as barred:
        backup = request.backup or entries[0].backup
        if backup is None:
            raise
        note(f"reverting is not possible: {barred.message}")
        accept = operation.settings.deploy.auto_restore
        return _restore_from(operation, conn, expected, backup, accept_loss=accept, salvage=request.salvage)
    if undone.missing and operation.settings.deploy.auto_restore:
        note(f"reverted, but {said(undone.missing, undone.compared)}")
        return _restore_from(operation, conn, expected, undone.compared, accept_loss=True, salvage=request.salvage)
    return undone


def _revert(operation: Operation, request: Request, conn: Connection, expected: Expected) -> RolledBack:
    entries = to_undo(conn, request.to, only=operation.id if request.only_operation else None)
    if not entries:
        return _outcome(operation, conn, expected, "revert", nothing=True, detail=why_nothing(conn, request.to))
    reverted = revert_entries(operation, conn, expected, entries, yes=request.yes)
    undone, saved = _outcome(operation, conn, expected, "revert", reverted=reverted), entries[0].backup
    missing = missing_rows(operation, conn, saved) if saved else ()
    return replace(undone, missing=missing, compared=saved, detail=said(missing, saved))


def revert_entries(
    operation: Operation, conn: Connection, expected: Expected, entries: Sequence[ledger.Entry], *, yes: bool
) -> tuple[str, ...]:
    """Run the down scripts of `entries` (oldest first), the newest first; the revisions that went.

    Raises RollbackFailed with nothing changed where one of them cannot be reverted, or rows would go without `yes`;
    one whose script fails names those that went before it.
    """
    files = {migration.revision: migration for migration in readable(operation.settings.migrations, entries)[0]}
    migrations = [revertible(entry, files) for entry in reversed(entries)]
    for migration in migrations:  # all of them before the first: each is a transaction of its own
        _refuse_loss(operation, conn, migration, expected, yes)
    operation.describe(revert=[migration.revision for migration in migrations], yes=yes)
    done: list[str] = []
    with operation.session("revert", autocommit=False) as worker:
        for migration in migrations:
            try:
                _revert_one(operation, worker, migration, expected, yes)
            except OpsError as error:
                if done:  # each was a transaction of its own
                    raise RollbackFailed(
                        f"reverted {', '.join(done)}, then: {error.message}", hint=error.hint
                    ) from error
                raise
            done.append(migration.revision)
    return tuple(done)


def _restore(operation: Operation, request: Request, conn: Connection, expected: Expected) -> RolledBack:
    return _restore_from(operation, conn, expected, request.backup, accept_loss=request.yes, salvage=request.salvage)


def _restore_from(
    operation: Operation,
    conn: Connection,
    expected: Expected,
    backup_id: str | None,
    *,
    accept_loss: bool,
    salvage: bool,
) -> RolledBack:
    settings = operation.settings
    schema = settings.database.schema_name
    # A backup of another database is refused: a clone's, or one that shares the bucket.
    backup = find(open_store(settings), settings.environment, backup_id, database=identity_of(conn))
    if not backup.proved:
        raise RollbackFailed(
            f"backup {backup.id} is not proved: it has never been restored",
            hint=f"prove it first: kg restore-drill {settings.environment} --backup {backup.id}",
        )
    live = tuple(table for table in tables_in(conn, schema) if table in expected.scope)
    dependents = foreign_dependents(conn, schema, live)
    if dependents:
        raise RollbackRefused(
            f"others' objects hang on our tables and would follow the replaced ones: {'; '.join(dependents)}",
            hint="drop them, roll back, and make them again",
        )
    with staged(operation, backup, backup.manifest.our_tables) as found:
        loss = loss_report(conn, schema, found.schema)
        if loss and not (accept_loss or salvage):
            raise loss_refused(operation, found, loss)
        swapped = swap(operation, found, live, accept_loss=accept_loss, salvage=salvage)
    detail = str(swapped.salvaged or "; ".join(map(str, swapped.loss)) or "nothing was lost")
    return _outcome(operation, conn, expected, "restore", backup=backup.id, replaced=swapped.replaced, detail=detail)


def _reset(operation: Operation, request: Request, conn: Connection, expected: Expected) -> RolledBack:
    """The guide's third scenario: the schema is kept, the rows go, the environment's command indexes again."""
    schema = operation.settings.database.schema_name
    live = [table for table in tables_in(conn, schema) if table in expected.scope]
    rows = count_rows(conn, schema, live)
    if live and not any(rows.values()) and _index_owed(operation, conn):
        return _outcome(operation, conn, expected, "reset", detail=_index_again(operation, rows))
    if not live or not any(rows.values()):
        return _outcome(operation, conn, expected, "reset", nothing=True, detail="the tables are empty already")
    if not request.yes:
        raise RollbackRefused(
            f"reset would delete {_counted(rows)}; nothing was changed",
            hint=f"to delete them: kg rollback {operation.settings.environment} --strategy reset --yes",
        )
    tables = SQL(", ").join(Identifier(schema, table) for table in live)
    with (
        operation.step("truncate", rows=rows),
        operation.session("reset", autocommit=False) as worker,
        database_errors("emptying the tables"),
    ):
        worker.execute(SQL("TRUNCATE {}").format(tables))
        operation.guard(worker)
        worker.commit()
    return _outcome(operation, conn, expected, "reset", detail=_index_again(operation, rows))


def _index_owed(operation: Operation, conn: Connection) -> bool:
    """The last reset emptied the tables, and did not live to fill them again."""
    row = conn.execute(query("index_owed")).fetchone()
    return bool(operation.settings.application.index_command and row and row[0])


def _index_again(operation: Operation, rows: dict[str, int]) -> str:
    application = operation.settings.application
    deleted = f"deleted {_counted(rows) or 'nothing: the tables were empty already'}"
    if not application.index_command:
        environment = operation.settings.environment
        return f"{deleted}; no index_command is set: fill the tables with kg index {environment} PATH"
    with operation.step("index"), track("index-command", "Index again"):
        run_index_command(operation.settings)
    return f"{deleted}; indexed again"


def _revert_one(operation: Operation, conn: Connection, migration: Migration, expected: Expected, yes: bool) -> None:
    def record(conn: Connection) -> None:
        ledger.record_reverted(conn, migration.revision, operation=operation.id)
        operation.guard(conn)

    run_down(operation, conn, migration, expected, record, yes=yes)


def run_down(
    operation: Operation, conn: Connection, migration: Migration, expected: Expected, record: Callback, *, yes: bool
) -> None:
    """One down script, as a step of the journal; tables with rows are locked, counted, and dropped only with `yes`."""

    def before(conn: Connection) -> None:
        _refuse_loss(operation, conn, migration, expected, yes, lock=True)

    assert migration.down_script is not None
    title = f"Revert {migration.revision} {migration.name}"
    indexes = concurrent_indexes(migration.down_script)
    with (
        operation.step("revert", revision=migration.revision, indexes=indexes),
        track(f"revert-{migration.revision}", title),
    ):
        revert(conn, migration, operation.settings.database, record, before=before)


def _refuse_loss(
    operation: Operation, conn: Connection, migration: Migration, expected: Expected, yes: bool, *, lock: bool = False
) -> None:
    schema = operation.settings.database.schema_name
    found = at_stake(conn, schema, expected, migration.revision, lock=lock)
    if found and not yes:
        raise RollbackRefused(
            f"reverting {migration.revision} would drop {', '.join(found)}; nothing was changed",
            hint=f"to drop them: kg rollback {operation.settings.environment} --strategy revert --yes",
        )


def _counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{table} with {count:,} rows" for table, count in rows.items() if count)


def _outcome(
    operation: Operation, conn: Connection, expected: Expected, strategy: Strategy, *, nothing: bool = False,
    reverted: tuple[str, ...] = (), backup: str | None = None, replaced: str | None = None, detail: str = "",
) -> RolledBack:  # fmt: skip
    entries = ledger.entries(conn)
    return RolledBack(
        strategy=strategy,
        nothing=nothing,
        fingerprint=our_fingerprint(conn, operation.settings.database.schema_name, expected),
        revision=entries[-1].revision if entries else "",
        reverted=reverted,
        backup=backup,
        replaced=replaced,
        detail=detail,
    )
