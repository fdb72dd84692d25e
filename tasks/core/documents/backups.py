"""The `--json` documents of the verbs around backups; the package says what holds for all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from tasks.core.documents.base import Document, Part
from tasks.core.settings import Environment

if TYPE_CHECKING:
    from tasks.core.backup.manifest import Backup
    from tasks.core.backup.retention import Decision, RetentionPlan


class BackupDocument(Document):
    """`kg backup`, and each element of `kg backups`."""

    id: str = Field(description="<YYYYmmddTHHMMSSZ>-<8 hex>")
    environment: Environment
    created: datetime = Field(description="When its snapshot was taken, UTC")
    revision: str | None = Field(description="Newest revision in its ledger; null where there was none")
    stored_bytes: int = Field(description="Size in the store, compressed")
    tables: dict[str, int] = Field(description="Rows by <schema>.<table>, counted in the dump's own snapshot")
    proved: bool = Field(description="A restore drill of it has succeeded")
    proved_at: datetime | None = None
    grade: Literal["restorable", "readable"] | None = Field(
        None, description="restorable: proved on the same server major and pgvector; readable: on others"
    )
    fingerprint: str | None = Field(None, description="Of the schema at the snapshot")
    server: str | None = Field(None, description="PostgreSQL's version")
    pgvector: str | None = None
    folder: str | None = Field(None, description="Where it lies in the store")
    plain_bytes: int | None = Field(None, description="Size before compression")
    format: Literal["portable", "binary"] | None = Field(
        None, description="portable: all through pg_dump; binary: large vector tables beside it"
    )
    restore_seconds: float | None = Field(None, description="How long its newest drill took to restore it")
    kept: bool = Field(False, description="Marked by `kg backups --keep`: no prune deletes it")
    database: str | None = Field(None, description="Name of the database that it is of")

    @classmethod
    def of(cls, backup: Backup) -> Self:
        manifest, proof = backup.manifest, backup.proof if backup.proved else None
        return cls(
            id=backup.id,
            environment=manifest.environment,
            created=backup.created,
            revision=manifest.revision or None,
            stored_bytes=backup.stored_bytes,
            tables=manifest.tables,
            proved=backup.proved,
            proved_at=proof.created if proof else None,
            grade=proof.grade if proof else None,
            fingerprint=manifest.fingerprint,
            server=manifest.server.version,
            pgvector=manifest.server.pgvector or None,
            folder=manifest.folder,
            plain_bytes=manifest.plain_bytes,
            format=manifest.format,
            restore_seconds=proof.restore_seconds if proof else None,
            kept=backup.kept,
            database=manifest.database.name,
        )


class DrillDocument(Document):
    """`kg restore-drill`."""

    ok: bool
    environment: Environment
    backup: str
    tables: dict[str, int] = Field(description="Rows by <schema>.<table>, counted in the restored copy")
    seconds: dict[str, float] = Field(description="Duration of each phase")
    grade: Literal["restorable", "readable"] | None = None
    detail: str = Field("", description="What differed, where it is not ok")

    @classmethod
    def of(cls, backup: Backup) -> Self:
        """Of a backup that a drill has just given its proof."""
        proof = backup.proof
        assert proof is not None, "a drill leaves a proof"
        return cls(
            ok=proof.ok,
            environment=backup.manifest.environment,
            backup=backup.id,
            tables=proof.tables,
            seconds=proof.seconds,
            grade=proof.grade,
            detail=proof.difference,
        )


class PruneItem(Part):
    id: str = Field(description="A backup, a schema of replaced tables, or a replaced database")
    reason: str
    stored_bytes: int | None = None


class PruneDocument(Document):
    """`kg prune`."""

    environment: Environment
    applied: bool = Field(description="False: a dry run, nothing was deleted")
    keep: tuple[PruneItem, ...]
    delete: tuple[PruneItem, ...] = Field(description="Backups, and the remains of those that were never finished")
    problems: tuple[PruneItem, ...] = Field((), description="What lies among the backups and is none; left alone")

    @classmethod
    def of(cls, environment: Environment, plan: RetentionPlan, *, applied: bool) -> Self:
        def items(decisions: Sequence[Decision]) -> tuple[PruneItem, ...]:
            return tuple(
                PruneItem(id=each.id, reason=each.reason, stored_bytes=plan.stored_bytes.get(each.id))
                for each in decisions
            )

        return cls(
            environment=environment,
            applied=applied,
            keep=items(plan.keep),
            delete=items((*plan.delete, *plan.sweep, *plan.replaced)),
            problems=items(plan.problems),
        )
