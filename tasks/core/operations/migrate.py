"""Apply a plan: each revision and its ledger row in one transaction, checked against the fence before it commits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from sql import query
from tasks.core.backup.manifest import Backup
from tasks.core.operations.operation import Operation
from tasks.core.operations.plan import DeployPlan
from tasks.core.postgres.connections import Connection
from tasks.core.progress import note, track
from tasks.core.release.bounds import WindowEnd, bounded
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.schema.expected import Expected
from tasks.core.schema.migrations import Migration, apply
from tasks.core.schema.scripts import concurrent_indexes
from tasks.core.settings import DatabaseSettings


@dataclass(frozen=True)
class Release:
    """How a deploy was let in: its plan's hash, who approved it, its window or who overrode that (for the ledger), and
    when its window ends (None: whenever).
    """

    detail: Mapping[str, Any]
    until: datetime | None


@dataclass(frozen=True)
class Migrated:
    """Revisions that this deploy applied, and those it recognised and wrote into the ledger."""

    applied: tuple[str, ...]
    adopted: tuple[str, ...]


def migrate(
    operation: Operation,
    plan: DeployPlan,
    backup: Backup | None,
    *,
    terminate_idle_blockers: bool = False,
    release: Release | None = None,
) -> Migrated:
    """Adopt and apply what `plan` says. Raises MigrationFailed; revisions before the failed one stay applied.

    `terminate_idle_blockers` (or the environment's own word): sessions that stand in the way and have been idle in a
    transaction for longer than `idle_blocker_limit` are ended, each after it was shown. `release` goes into the
    ledger, and no statement runs past its end.
    """
    saved = backup.id if backup else None
    database = operation.settings.database
    if terminate_idle_blockers:
        database = database.model_copy(update={"terminate_idle_blockers": True})
    # Written before the first: a run that dies among several revisions is known by it.
    operation.describe(migrate=[migration.revision for migration in plan.pending])
    with operation.session("migrate", autocommit=False) as conn:
        for migration in plan.adopted:
            _adopt(operation, conn, migration, plan.tolerated, saved, release)
        for migration in plan.pending:
            _apply(operation, conn, migration, saved, database, release)
    return Migrated(
        tuple(migration.revision for migration in plan.pending),
        tuple(migration.revision for migration in plan.adopted),
    )


def _adopt(
    operation: Operation,
    conn: Connection,
    migration: Migration,
    tolerated: tuple[str, ...],
    backup: str | None,
    release: Release | None,
) -> None:
    with operation.step("adopt", revision=migration.revision), conn.transaction():
        ledger.record_adopted(conn, migration, operation=operation.id, backup=backup, tolerated=tolerated)
        _record_release(operation, conn, migration, release)
        operation.guard(conn)
    note(f"adopted {migration.revision} {migration.name}: its tables were already there")


def _apply(
    operation: Operation,
    conn: Connection,
    migration: Migration,
    backup: str | None,
    database: DatabaseSettings,
    release: Release | None,
) -> None:
    def record(conn: Connection) -> None:
        ledger.record_applied(conn, migration, operation=operation.id, backup=backup)
        _record_release(operation, conn, migration, release)
        operation.guard(conn)

    title = f"Apply {migration.revision} {migration.name}"
    indexes = concurrent_indexes(migration.up_script)
    with (
        operation.step("apply", revision=migration.revision, indexes=indexes),
        track(f"apply-{migration.revision}", title),
    ):
        until = release.until if release else None
        end = WindowEnd(database, until) if until else None
        apply(conn, migration, bounded(database, until), record, observer=end)


def _record_release(operation: Operation, conn: Connection, migration: Migration, release: Release | None) -> None:
    if release:
        values = {"revision": migration.revision, "operation": operation.id, "release": Jsonb(dict(release.detail))}
        conn.execute(query("record_release"), values)


def our_fingerprint(conn: Connection, schema: str, expected: Expected) -> str:
    """Fingerprint of everything of ours that is there now, whatever the revision."""
    return fingerprint(read_catalog(conn, schema, expected.scope))
