"""What a rollback is to undo, whether it has a way down, and whether that is the one it was deployed with."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from sql import query
from tasks.core.errors import RollbackFailed, RollbackRefused, UsageError, quoted
from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.migrations import Migration


def revertible(entry: ledger.Entry, files: Mapping[str, Migration]) -> Migration:
    """The migration of `entry`. Raises RollbackFailed where it has none, RollbackRefused where the files are others."""
    migration = files.get(entry.revision)
    if migration is None or migration.down is None:
        raise RollbackFailed(f"revision {entry.revision} has no down script", hint="restore a backup instead")
    if migration.checksum != entry.checksum:
        raise RollbackFailed(
            f"revision {entry.revision} was applied from another file than {migration.up.name} is now",
            hint="check out the files that were deployed, or restore a backup",
        )
    if migration.down_checksum != entry.down_checksum:
        raise RollbackRefused(
            f"{migration.down.name} is not the down script that revision {entry.revision} was deployed with",
            hint="check out the files that were deployed, or restore a backup",
        )
    if migration.irreversible:
        raise RollbackFailed(f"revision {entry.revision} says that it is irreversible", hint="restore a backup instead")
    return migration


def to_undo(conn: Connection, to: str, *, only: uuid.UUID | None) -> tuple[ledger.Entry, ...]:
    """Applied (never adopted) revisions of the operation `only`, above the one asked for by `to`, or of the newest
    deploy; lowest first. Of a deploy that was taken back nothing is left: the one before it is never reverted unasked.
    """
    entries = ledger.entries(conn)
    if only:
        # What a crashed deploy applied and nobody verified belongs to the deploy that found it.
        applied = (entry for entry in entries if entry.kind == "applied")
        return tuple(entry for entry in applied if entry.operation == only or entry.verified_at is None)
    return _above(entries, to) if to else tuple(entry for entry in _newest_deploy(conn) if entry.state == "applied")


def why_nothing(conn: Connection, to: str) -> str:
    """Where to_undo() has found nothing: since somebody has taken the newest deploy back, or since there was none."""
    entries, taken_back = ledger.entries(conn), _newest_deploy(conn)
    if to or not entries or not taken_back:
        return "no revision to undo"
    gone = ", ".join(entry.revision for entry in taken_back)
    before = entries[-2].revision if len(entries) > 1 else "none"
    further = "" if entries[-1].kind == "adopted" else f"; to go further back: --strategy revert --to {before}"
    return f"the newest deploy ({gone}) has been taken back already, it is at revision {entries[-1].revision}{further}"


def _newest_deploy(conn: Connection) -> tuple[ledger.Entry, ...]:
    """The rows of the newest deploy that applied anything, lowest revision first, with those taken back since. What a
    rollback has brought back from a backup is no deploy's.
    """
    rollbacks = {row[0] for row in conn.execute(query("rollbacks")).fetchall()} if ledger.exists(conn) else set()
    deployed = [row for row in ledger.history(conn) if row.kind == "applied" and row.operation not in rollbacks]
    # By time: what was applied out of order is below what was there.
    newest = max(deployed, key=lambda row: (row.applied_at, int(row.revision)), default=None)
    found = (row for row in deployed if newest and row.operation == newest.operation)
    return tuple(sorted(found, key=lambda row: int(row.revision)))


def _above(applied: Sequence[ledger.Entry], revision: str) -> tuple[ledger.Entry, ...]:
    """Those of `applied` (lowest first) that are above `revision`, or all for "none". Raises UsageError where it is not
    one of them, RollbackRefused where one to be reverted was adopted.
    """
    if revision != "none" and not (revision.isascii() and revision.isdigit()):
        raise UsageError(f"{quoted(revision)} is no revision", hint="give its number, like 001, or none for all")
    least = 0 if revision == "none" else int(revision)
    names = [entry.revision for entry in applied]
    if least and least not in map(int, names):
        known = f"{', '.join(names)} are" if names else "none is"
        raise UsageError(f"revision {least:03d} is not applied: {known}")
    found = tuple(entry for entry in applied if int(entry.revision) > least)
    for entry in found:
        if entry.kind == "adopted":
            raise RollbackRefused(f"revision {entry.revision} was adopted, not applied: it is never reverted")
    return found
