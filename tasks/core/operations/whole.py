"""The whole database from a backup: built beside, compared, and put in the other's place by two renames.

Its journal is the COMMENT ON DATABASE, since the database's own journal goes with it: recover begins at the
maintenance database. The renames and the comments are one transaction: before it the old database is in place and
`reopen` undoes the rest; after it the new one is, and holds the ledger and the journal.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

from psycopg.sql import SQL, Identifier, Literal

from sql import query
from tasks.core.backup.archive import restore_archive
from tasks.core.backup.library import find
from tasks.core.backup.loss import TableLoss
from tasks.core.backup.manifest import Backup
from tasks.core.backup.other_loss import database_loss
from tasks.core.backup.replaced import mark_of
from tasks.core.backup.swap import merge_ledger
from tasks.core.errors import IntegrityError, OperationRunning, RollbackFailed
from tasks.core.operations.migrate import our_fingerprint
from tasks.core.operations.operation import Operation
from tasks.core.operations.plan import known_expected
from tasks.core.operations.rollback import RolledBack
from tasks.core.operations.sessions import PATIENCE_SECONDS, acquire
from tasks.core.postgres import sibling
from tasks.core.postgres.connections import Connection, connect, describe, target, vector_extension
from tasks.core.postgres.scratch import Scratch
from tasks.core.postgres.tools import tools_for
from tasks.core.progress import note, track
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.settings import Settings
from tasks.core.store.base import open_store

MARK = "kg restore: "
_CARRIED = ("operation", "journal", "ledger", "index_build", "fence", "identity")
_NUMBERED = ("ledger", "index_build")


def restore_whole(operation: Operation, backup_id: str | None, *, accept_loss: bool) -> RolledBack:
    """Put the database of a proved backup in the place of this one, which is kept beside, closed.

    Raises RollbackFailed, with the database open and as it was, where something bars it or rows would be lost and
    `accept_loss` is not set. Every other session in it is ended.
    """
    address = operation.settings.address
    assert address is not None
    backup = _chosen(operation, backup_id)
    with connect(sibling.maintenance(address), purpose="whole database") as keeper:
        _lock(keeper, address.dbname, operation.settings.environment)
        original = _refuse(keeper, address.dbname, operation)
        staged = f"kg_restore_{operation.id.hex[:8]}"
        word = {"operation": str(operation.id), "staged": staged, "comment": original.comment}
        sibling.comment(keeper, address.dbname, MARK + json.dumps(word))
        try:
            with operation.step("whole database", staged=staged, backup=backup.id):
                _build(operation, keeper, backup, staged, original)
                replaced, loss = _exchange(operation, keeper, backup, staged, original, accept_loss=accept_loss)
        except BaseException:
            _undo(keeper, address.dbname)
            raise
    return _outcome(operation, backup, replaced, loss)


def reopen(settings: Settings) -> tuple[str, ...]:
    """After a crash before the renames: the database takes sessions again, and the one beside it is dropped; its name.

    Raises OperationRunning while another process is at it.
    """
    address = target(settings)
    with connect(sibling.maintenance(address), purpose="recover") as keeper:
        if not _journal(keeper, address.dbname):
            return ()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _locked(keeper, address.dbname):
            if time.monotonic() > deadline:
                raise _at_it(settings.environment)
            time.sleep(0.1)
        return _undo(keeper, address.dbname)


def _chosen(operation: Operation, backup_id: str | None) -> Backup:
    environment = operation.settings.environment
    backup = find(open_store(operation.settings), environment, backup_id)
    if not backup.proved:
        hint = f"prove it first: kg restore-drill {environment} --backup {backup.id}"
        raise RollbackFailed(f"backup {backup.id} is not proved: it has never been restored", hint=hint)
    if backup.manifest.scope != "database":
        raise RollbackFailed(
            f"backup {backup.id} holds only {', '.join(backup.manifest.scope)}: it is no whole database",
            hint="without --whole-database our tables are swapped by schema",
        )
    return backup


def _refuse(keeper: Connection, name: str, operation: Operation) -> sibling.Facts:
    found = sibling.facts(keeper, name)
    barred = list(sibling.hindrances(keeper, name))
    if not found.owned:
        barred.append(f"this role is not {found.owner}, its owner")
    if not found.may_create:
        barred.append("this role may not create databases")
    if barred:
        raise RollbackFailed(
            f"the database {name} cannot be exchanged: {'; '.join(barred)}; nothing was changed",
            hint=f"without --whole-database our tables are swapped by schema: kg rollback "
            f"{operation.settings.environment} --strategy restore",
        )
    return found


def _build(operation: Operation, keeper: Connection, backup: Backup, staged: str, original: sibling.Facts) -> None:
    settings = operation.settings
    assert settings.address is not None
    place = settings.address.database(staged)
    server = describe(operation.conn)
    sibling.make_like(keeper, staged, original, server)
    tools = tools_for(server.major, settings.home)
    vector = vector_extension(operation.conn).available or ""
    with track("whole-restore", f"Restore {backup.id} into the database {staged}"):
        restore_archive(settings, backup, Scratch(place, tools, server, vector, own=False))
    manifest = backup.manifest
    with connect(place, purpose="restore") as conn:
        copied = fingerprint(read_catalog(conn, manifest.our_schema, manifest.our_tables))
    if copied != manifest.fingerprint:
        raise IntegrityError(f"the copy of backup {backup.id} has fingerprint {copied}, not its manifest's")
    sibling.carry_over(keeper, settings.address.dbname, staged, original)


def _exchange(
    operation: Operation,
    keeper: Connection,
    backup: Backup,
    staged: str,
    original: sibling.Facts,
    *,
    accept_loss: bool,
) -> tuple[str, tuple[TableLoss, ...]]:
    address = operation.settings.address
    assert address is not None
    name, replaced = address.dbname, f"kg_replaced_{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with (
        connect(address, purpose="whole database") as live,
        connect(address.database(staged), purpose="restore") as new,
    ):
        _refuse_loss(operation, backup, database_loss(live, new), accept_loss=accept_loss)  # before anyone is ended
        spared = [live.info.backend_pid, operation.conn.info.backend_pid]
        note(f"closing {name} for the exchange: its other sessions are ended")
        sibling.close_door(keeper, name, spared)
        loss = database_loss(live, new)  # the last writer is out
        _refuse_loss(operation, backup, loss, accept_loss=accept_loss)
        operation.guard(live)
        _carry_journal(operation, live, new, backup)
    operation.conn.close()  # a session in it, ours too, would bar the renames
    sibling.empty_out(keeper, name)
    sibling.empty_out(keeper, staged)
    kept = f"{mark_of(name)}{backup.id}: closed, kept until pruned"
    sibling.exchange(keeper, name, staged, replaced, {name: original.comment, replaced: kept})
    _take_again(operation)
    return replaced, loss


def _refuse_loss(operation: Operation, backup: Backup, loss: tuple[TableLoss, ...], *, accept_loss: bool) -> None:
    if loss and not accept_loss:
        environment = operation.settings.environment
        raise RollbackFailed(
            f"restoring the whole of backup {backup.id} would discard what was written since "
            f"({'; '.join(map(str, loss))}); nothing was changed",
            hint=f"to discard it: kg rollback {environment} --strategy restore --backup {backup.id} "
            "--whole-database --yes",
        )


def _carry_journal(operation: Operation, live: Connection, new: Connection, backup: Backup) -> None:
    """The live journal goes on in the new database; the backup's ledger is merged into the live one's."""
    ledger.ensure(new)
    entries = ledger.entries(new)
    with new.transaction():
        new.execute("SET LOCAL synchronous_commit = on")
        for table in reversed(_CARRIED):
            new.execute(SQL("DELETE FROM kg_ops.{}").format(Identifier(table)))
        for table in _CARRIED:
            _copy(live, new, table)
        for table in _NUMBERED:
            rows = Identifier("kg_ops", table)
            literal = Literal(f"kg_ops.{table}")
            new.execute(query("renumber_kg_ops").format(table=literal, rows=rows))
        merge_ledger(new, operation, backup, entries)


def _copy(source: Connection, to: Connection, table: str) -> None:
    name = Identifier("kg_ops", table)
    with (
        source.cursor().copy(SQL("COPY {} TO STDOUT").format(name)) as rows,
        to.cursor().copy(SQL("COPY {} FROM STDIN").format(name)) as copy,
    ):
        for chunk in rows:
            copy.write(chunk)


def _take_again(operation: Operation) -> None:
    """The operation goes on in the database that has the name now."""
    settings = operation.settings
    assert settings.address is not None
    operation.conn = connect(settings.address, purpose=f"{operation.kind} lock")
    operation.conn.execute("SET synchronous_commit = on")
    acquire(operation.conn, settings.environment, operation.kind)


def _undo(keeper: Connection, name: str) -> tuple[str, ...]:
    """Before the renames nothing has happened to the database: its door and its comment are put back."""
    found = _journal(keeper, name)
    if not found:
        return ()
    sibling.drop(keeper, found["staged"])
    sibling.open_door(keeper, name)
    sibling.comment(keeper, name, found["comment"])
    return (found["staged"],)


def _journal(keeper: Connection, name: str) -> dict[str, str] | None:
    row = keeper.execute(query("journalled_comment"), {"name": name}).fetchone()
    text = (row and row[0]) or ""
    return dict(json.loads(text.removeprefix(MARK))) if text.startswith(MARK) else None


def _lock(keeper: Connection, name: str, environment: str) -> None:
    if not _locked(keeper, name):
        raise _at_it(environment)
    _undo(keeper, name)  # an earlier one that died


def _locked(keeper: Connection, name: str) -> bool:
    row = keeper.execute(query("try_database_lock"), {"name": name}).fetchone()
    return bool(row and row[0])


def _at_it(environment: str) -> OperationRunning:
    return OperationRunning(f"another process is exchanging the {environment} database", hint="wait for its end")


def _outcome(operation: Operation, backup: Backup, replaced: str, loss: tuple[TableLoss, ...]) -> RolledBack:
    conn, settings = operation.conn, operation.settings
    entries = ledger.entries(conn)
    return RolledBack(
        strategy="restore",
        nothing=False,
        fingerprint=our_fingerprint(conn, settings.database.schema_name, known_expected(conn, settings)),
        revision=entries[-1].revision if entries else "",
        backup=backup.id,
        replaced=f"database {replaced}",
        detail="the whole database; " + ("; ".join(map(str, loss)) or "nothing was lost"),
    )
