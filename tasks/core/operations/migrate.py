"""Apply a plan: each revision and its ledger row in one transaction, checked against the fence before it commits."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core.backup.manifest import Backup
from tasks.core.operations.operation import Operation
from tasks.core.operations.plan import DeployPlan
from tasks.core.postgres.connections import Connection
from tasks.core.progress import note, track
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.schema.expected import Expected
from tasks.core.schema.migrations import Migration, apply
from tasks.core.schema.scripts import concurrent_indexes
from tasks.core.settings import DatabaseSettings


@dataclass(frozen=True)
class Migrated:
    """Revisions that this deploy applied, and those it recognised and wrote into the ledger."""

    applied: tuple[str, ...]
    adopted: tuple[str, ...]


def migrate(
    operation: Operation, plan: DeployPlan, backup: Backup | None, *, terminate_idle_blockers: bool = False
) -> Migrated:
    """Adopt and apply what `plan` says. Raises MigrationFailed; revisions before the failed one stay applied.

    `terminate_idle_blockers` (or the environment's own word): sessions that stand in the way and have been idle in a
    transaction for longer than `idle_blocker_limit` are ended, each after it was shown.
    """
    saved = backup.id if backup else None
    database = operation.settings.database
    if terminate_idle_blockers:
        database = database.model_copy(update={"terminate_idle_blockers": True})
    # Written before the first: a run that dies among several revisions is known by it.
    operation.describe(migrate=[migration.revision for migration in plan.pending])
    with operation.session("migrate", autocommit=False) as conn:
        for migration in plan.adopted:
            _adopt(operation, conn, migration, plan.tolerated, saved)
        for migration in plan.pending:
            _apply(operation, conn, migration, saved, database)
    return Migrated(
        tuple(migration.revision for migration in plan.pending),
        tuple(migration.revision for migration in plan.adopted),
    )


def _adopt(
    operation: Operation, conn: Connection, migration: Migration, tolerated: tuple[str, ...], backup: str | None
) -> None:
    with operation.step("adopt", revision=migration.revision), conn.transaction():
        ledger.record_adopted(conn, migration, operation=operation.id, backup=backup, tolerated=tolerated)
        operation.guard(conn)
    note(f"adopted {migration.revision} {migration.name}: its tables were already there")


def _apply(
    operation: Operation, conn: Connection, migration: Migration, backup: str | None, database: DatabaseSettings
) -> None:
    def record(conn: Connection) -> None:
        ledger.record_applied(conn, migration, operation=operation.id, backup=backup)
        operation.guard(conn)

    title = f"Apply {migration.revision} {migration.name}"
    indexes = concurrent_indexes(migration.up_script)
    with (
        operation.step("apply", revision=migration.revision, indexes=indexes),
        track(f"apply-{migration.revision}", title),
    ):
        apply(conn, migration, database, record)


def our_fingerprint(conn: Connection, schema: str, expected: Expected) -> str:
    """Fingerprint of everything of ours that is there now, whatever the revision."""
    return fingerprint(read_catalog(conn, schema, expected.scope))
