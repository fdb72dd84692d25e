"""Has an applied revision a way down, and is it the one that was deployed?"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.core.errors import RollbackFailed, RollbackRefused
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
