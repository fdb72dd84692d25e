"""What `--json` prints: one frozen model a document, each with `"schema": 1`.

Scripts rely on these. A field is added with a default; one that is renamed, removed or means something else moves
`schema` to 2. `tests/core/documents.schema.json` holds their JSON schemas, and a test compares.

A flow returns its document. One that fails raises, and may `attach` the document of how far it came to the error:
kg prints it with `error` filled in.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from tasks.core.documents.backups import BackupDocument, DrillDocument, PruneDocument, PruneItem
from tasks.core.documents.base import CheckItem, Document, Part, attach, attached, to_json
from tasks.core.documents.plan import PlanDocument
from tasks.core.documents.reindex import ReindexDocument
from tasks.core.documents.status import StatusDocument
from tasks.core.settings import Environment

if TYPE_CHECKING:
    from tasks.core.application.index import IndexResult
    from tasks.core.application.search import Match
    from tasks.core.operations.recover import Recovered
    from tasks.core.operations.rollback import RolledBack
    from tasks.core.release.approvals import Waiting
    from tasks.core.schema.report import Report

__all__ = [  # and every class below
    "DOCUMENTS",
    "BackupDocument",
    "CheckItem",
    "Document",
    "DrillDocument",
    "PlanDocument",
    "PruneDocument",
    "PruneItem",
    "ReindexDocument",
    "StatusDocument",
    "attach",
    "attached",
    "to_json",
]

FailureState = Literal["failed", "refused"]
DeployState = Literal["deployed", "nothing-pending", "scheduled", "waiting-approval", "held", "failed", "refused"]
RollbackState = Literal["rolled-back", "nothing-to-undo", "failed", "refused"]
RecoverState = Literal["recovered", "nothing-to-recover"]
Strategy = Literal["auto", "revert", "restore", "reset"]


class ErrorDetail(Part):
    code: str = Field(description="Kind of error, a word that does not change: connection-failed, not-confirmed, ...")
    message: str = Field(description="What failed, on what, in one line")
    hint: str | None = Field(None, description="What to do next")


class FailureDocument(Document):
    """What every verb prints when it has nothing else to say. `refused`: nothing was done, a gate is closed."""

    state: FailureState
    error: ErrorDetail


class ReportDocument(Document):
    """`kg check`, `kg verify`, and `kg backups --verify`, which has a check for each backup."""

    ok: bool = Field(description="No check failed")
    environment: Environment
    checks: tuple[CheckItem, ...]
    next: str = Field("", description="What to do where it is not ok")

    @classmethod
    def of(cls, environment: Environment, report: Report, *, remedy: str = "") -> Self:
        """`remedy`: what to do where the report is not ok."""
        checks = tuple(map(CheckItem.of, report.checks))
        return cls(ok=report.ok, environment=environment, checks=checks, next="" if report.ok else remedy)


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
    approved_by: tuple[str, ...] = Field((), description="Who agreed to this plan, where the environment asks people")
    predicted_seconds: float | None = Field(None, description="From the first statement to the end of verify and watch")
    scheduled_for: datetime | None = Field(None, description="When its window opens, for a scheduled deploy")
    error: ErrorDetail | None = None


class DecisionItem(Part):
    decision: Literal["approve", "reject"]
    name: str
    note: str
    decided_at: datetime


class WaitingDocument(Document):
    """`kg approve`, and each element of `kg approvals`: a prepared deploy that people or clocks are waited for."""

    id: str
    environment: Environment
    plan: str = Field(description="Hash of the plan; a plan that has changed is asked for anew")
    state: Literal["waiting", "approved", "scheduled", "released", "rejected", "expired", "superseded", "abandoned"]
    started_by: str
    required: int = Field(description="How many people must agree, without the one who started it")
    decisions: tuple[DecisionItem, ...]
    flow_run: str | None
    backup: str | None
    predicted_seconds: float
    created_at: datetime
    expires_at: datetime
    scheduled_for: datetime | None
    deserted: bool = Field(False, description="Waits for people, and its run no longer does: it crashed, say")

    @classmethod
    def of(cls, waiting: Waiting, *, deserted: bool = False) -> Self:
        """As it stands; `deserted` of a plan that waited when it was looked at."""
        same = {name: getattr(waiting, name) for name in cls.model_fields if hasattr(waiting, name)}
        decisions = tuple(DecisionItem(**asdict(each)) for each in waiting.decisions)
        own = {"id": str(waiting.id), "plan": waiting.hash, "decisions": decisions, "deserted": deserted}
        return cls.model_validate({**same, **own})


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
    flow_run: str | None = Field(None, description="Id of the rollback's flow run")
    error: ErrorDetail | None = None

    @classmethod
    def of(cls, environment: Environment, undone: RolledBack) -> Self:
        return cls(
            state="nothing-to-undo" if undone.nothing else "rolled-back",
            environment=environment,
            strategy=undone.strategy,
            fingerprint=undone.fingerprint,
            revision=undone.revision or None,
            backup=undone.backup,
            reverted=undone.reverted,
            replaced=undone.replaced,
            detail=undone.detail,
        )


class RemoteDocument(Document):
    """`--remote` of deploy, rollback and backup: how the run of the deployment has ended."""

    state: Literal["completed", "failed", "refused"]
    environment: Environment
    deployment: str = Field(description="flow/environment")
    flow_run: str = Field(description="Id of the flow run")
    page: str = Field(description="Its page in the Prefect UI")
    error: ErrorDetail | None = None


class RecoverAction(Part):
    what: Literal["finished", "undone", "rolled-back", "verified", "dropped", "reported"]
    subject: str
    detail: str = ""
    command: str = Field("", description="For what was only reported: the statement that an operator would run")


class DeadRun(Part):
    """A run that never said how it ended."""

    kind: str
    started: datetime
    host: str
    pid: int
    step: str | None = Field(None, description="The last step in its journal")


class RecoverDocument(Document):
    """`kg recover`."""

    state: RecoverState
    environment: Environment
    dead: tuple[DeadRun, ...] = ()
    actions: tuple[RecoverAction, ...] = ()
    fingerprint: str | None = Field(None, description="Of the schema afterwards")
    revision: str | None = Field(None, description="Newest revision in the ledger afterwards")

    @classmethod
    def of(cls, environment: Environment, done: Recovered) -> Self:
        return cls(
            state="nothing-to-recover" if done.nothing else "recovered",
            environment=environment,
            dead=tuple(
                DeadRun(kind=each.kind, started=each.started_at, host=each.host, pid=each.pid, step=each.step)
                for each in done.dead
            ),
            actions=tuple(RecoverAction(**asdict(each)) for each in done.actions),
            fingerprint=done.fingerprint,
            revision=done.revision or None,
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


class CommandDocument(Document):
    """`kg index` without a PATH: the environment's index_command has run."""

    environment: Environment
    command: tuple[str, ...]
    seconds: float


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
    "status": StatusDocument,
    "check, verify": ReportDocument,
    "plan": PlanDocument,
    "backup, backups[]": BackupDocument,
    "restore-drill": DrillDocument,
    "deploy": DeployDocument,
    "rollback": RollbackDocument,
    "approve, approvals[]": WaitingDocument,
    "deploy, rollback, backup (with --remote)": RemoteDocument,
    "recover": RecoverDocument,
    "prune": PruneDocument,
    "reindex": ReindexDocument,
    "index": IndexDocument,
    "index (without a PATH)": CommandDocument,
    "search[]": SearchHit,
}
