"""What `--json` prints: one frozen model a document, each with `"schema": 1`.

Scripts rely on these. A field is added with a default; one that is renamed, removed or means something else moves
`schema` to 2. `tests/core/documents.schema.json` holds their JSON schemas, and a test compares.

A flow returns its document. One that fails raises, and may `attach` the document of how far it came to the error:
kg prints it with `error` filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from tasks.core.document_base import Document, Part, attach, attached, to_json
from tasks.core.reindex_document import ReindexDocument
from tasks.core.settings import Environment

if TYPE_CHECKING:
    from tasks.core.application.index import IndexResult
    from tasks.core.application.search import Match
    from tasks.core.backup.manifest import Backup
    from tasks.core.backup.retention import Decision, RetentionPlan
    from tasks.core.schema.report import Report

__all__ = ["DOCUMENTS", "Document", "ReindexDocument", "attach", "attached", "to_json"]  # and every class below

FailureState = Literal["failed", "refused"]
DeployState = Literal["deployed", "nothing-pending", "scheduled", "waiting-approval", "held", "failed", "refused"]
RollbackState = Literal["rolled-back", "nothing-to-undo", "failed", "refused"]
Strategy = Literal["auto", "revert", "restore", "reset"]
CheckStatus = Literal["ok", "failed", "skipped"]


class ErrorDetail(Part):
    code: str = Field(description="Kind of error, a word that does not change: connection-failed, not-confirmed, ...")
    message: str = Field(description="What failed, on what, in one line")
    hint: str | None = Field(None, description="What to do next")


class FailureDocument(Document):
    """What every verb prints when it has nothing else to say. `refused`: nothing was done, a gate is closed."""

    state: FailureState
    error: ErrorDetail


class CheckItem(Part):
    name: str
    status: CheckStatus
    detail: str


class ReportDocument(Document):
    """`kg check` and `kg verify`."""

    ok: bool = Field(description="No check failed")
    environment: Environment
    checks: tuple[CheckItem, ...]

    @classmethod
    def of(cls, environment: Environment, report: Report) -> Self:
        items = tuple(CheckItem(name=each.name, status=each.status, detail=each.detail) for each in report.checks)
        return cls(ok=report.ok, environment=environment, checks=items)


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


class DeployDocument(Document):
    """`kg deploy`."""

    state: DeployState
    environment: Environment
    revision: str | None = Field(None, description="Newest revision in the ledger afterwards")
    backup: str | None = Field(None, description="The proved backup that this deploy can go back to")
    rolled_back: bool = Field(False, description="The rollback flow ran and ended well")
    fingerprint_before: str | None = None
    fingerprint_after: str | None = None
    applied: tuple[str, ...] = Field((), description="Revisions that this deploy applied")
    adopted: tuple[str, ...] = Field((), description="Revisions that were recognised and written into the ledger")
    plan: str | None = Field(None, description="Hash of the plan, for a scheduled or waiting deploy")
    seconds: dict[str, float] = Field(default_factory=dict, description="Duration of each step")
    warnings: tuple[str, ...] = Field((), description="What failed after the database was verified, and undid nothing")
    flow_run: str | None = Field(None, description="Id of the flow run")
    error: ErrorDetail | None = None


class RollbackDocument(Document):
    """`kg rollback`."""

    state: RollbackState
    environment: Environment
    strategy: Strategy = Field(description="What was done; `auto` only where it failed before it had chosen")
    fingerprint: str | None = Field(None, description="Of the schema afterwards")
    revision: str | None = Field(None, description="Newest revision in the ledger afterwards")
    backup: str | None = Field(None, description="The backup that was restored")
    reverted: tuple[str, ...] = Field((), description="Revisions whose down scripts ran, newest first")
    replaced: str | None = Field(None, description="Schema that keeps the replaced tables until pruned")
    detail: str = ""
    error: ErrorDetail | None = None


class PruneItem(Part):
    id: str = Field(description="A backup, or a schema of replaced tables")
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
            delete=items((*plan.delete, *plan.sweep)),
            problems=items(plan.problems),
        )


class SkippedFile(Part):
    path: str
    reason: str


class IndexDocument(Document):
    """`kg index`."""

    environment: Environment
    root: str
    embedder: str
    files: int = Field(description="Files found: indexed, unchanged or skipped")
    indexed: int = Field(description="New or changed, written")
    unchanged: int
    removed: int = Field(description="No longer in the tree; their rows went")
    skipped: tuple[SkippedFile, ...]
    relationships: int = Field(description="Imports written by this run")
    seconds: float

    @classmethod
    def of(cls, environment: Environment, result: IndexResult) -> Self:
        skipped = [{"path": each.path, "reason": each.reason} for each in result.skipped]
        same = {name: getattr(result, name) for name in cls.model_fields if hasattr(result, name)}
        return cls.model_validate({**same, "environment": environment, "files": result.seen, "skipped": skipped})


class SearchHit(Document):
    """Each element of `kg search`, nearest first."""

    file_path: str
    similarity: float = Field(description="1 - cosine distance")
    language: str | None = None
    preview: str | None = None
    tokens_count: int | None = None

    @classmethod
    def of(cls, match: Match) -> Self:
        return cls(**asdict(match))


# The documents by the verb that prints them, as tests/core/documents.schema.json has them.
DOCUMENTS: dict[str, type[Document]] = {
    "failure": FailureDocument,
    "check, verify": ReportDocument,
    "backup, backups[]": BackupDocument,
    "restore-drill": DrillDocument,
    "deploy": DeployDocument,
    "rollback": RollbackDocument,
    "prune": PruneDocument,
    "reindex": ReindexDocument,
    "index": IndexDocument,
    "search[]": SearchHit,
}
