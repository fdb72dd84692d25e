"""What one deploy run has come to: its steps, its document, and the way back when a step fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from prefect.runtime import flow_run

from flows.report import leave_report
from flows.steps import Steps
from flows.telling import said, stands, tell_deploy_failed, tell_deployed, tell_interrupted
from tasks.artifacts import leave
from tasks.core.backup.manifest import Backup
from tasks.core.documents import DeployDocument, DeployState, ErrorDetail, RollbackDocument, attach, attached
from tasks.core.errors import OpsError, Refused, RollbackFailed, RowsMissing
from tasks.core.operations.migrate import Migrated, Release
from tasks.core.operations.operation import Operation, operation
from tasks.core.operations.plan import DeployPlan, is_current
from tasks.core.operations.rehearsed import Rehearsed
from tasks.core.operations.rollback import Request, roll_back
from tasks.core.progress import Track, note
from tasks.core.release import approvals
from tasks.core.release.approvals import Waiting
from tasks.core.release.describe import outline
from tasks.core.release.windows import Opening, has_windows
from tasks.core.settings import Settings
from tasks.database import verify_earlier
from tasks.notices import tell
from tasks.recovery import close_earlier, settle_earlier
from tasks.release import waits
from tasks.ways_back import ended

STEPS_OF_NOTHING = 3  # check, plan, verify


class Deployment:
    """Filled by the flow as it goes; a failure carries the document of how far it came."""

    def __init__(self, settings: Settings, *, started_by: str = "", override: str = "") -> None:
        self.settings, self.environment = settings, settings.environment
        self.started_by, self.override = approvals.seen(started_by), override
        self.step = Steps(STEPS_OF_NOTHING)
        self.planned: DeployPlan | None = None
        self.backup: Backup | None = None
        self.rehearsed: tuple[Rehearsed, ...] = ()
        self.stored: Waiting | None = None
        self.opening: Opening | None = None
        self.migrated: Migrated | None = None
        self.before: str | None = None
        self.undone: RollbackDocument | None = None
        self.warnings: list[str] = []
        self._lock = ExitStack()
        self.operation: Operation
        self.told = False

    @property
    def waits(self) -> bool:
        """Is there anybody or anything to wait for between preparation and migration?"""
        return waits(self.settings, self.override)

    @property
    def wants_window(self) -> bool:
        return has_windows(self.settings) and not self.override

    @property
    def plan(self) -> DeployPlan:
        assert self.planned is not None, "asked for before it was made"
        return self.planned

    @property
    def release(self) -> Release | None:
        """How this deploy was let in, for the ledger; None where nobody was asked and nothing overridden."""
        if self.stored is None and not self.override:
            return None
        starter = self.stored.started_by if self.stored else self.started_by  # who takes up a plan is not its starter
        detail: dict[str, Any] = {"plan": self.plan.hash, "started_by": starter}
        if self.stored:
            detail["approved"] = [
                {"name": each.name, "note": each.note, "at": each.decided_at.isoformat()}
                for each in self.stored.decisions
                if each.decision == "approve"
            ]
        detail |= {"window": str(self.opening)} if self.opening else {}
        detail |= {"override": self.override} if self.override else {}
        return Release(detail, self.opening.end if self.opening else None)

    def settle(self, rollback: Callable[..., RollbackDocument]) -> None:
        """What an earlier run left unfinished is finished or undone first."""
        settle_earlier(self.environment)
        with self.or_back(rollback):
            verify_earlier(self.environment)
        close_earlier(self.environment)

    def __enter__(self) -> Self:
        self.lock()
        try:
            current = is_current(self.operation.conn, self.settings)
        except OpsError:  # the steps say what is wrong, each in its place
            current = False
        self.step.total = STEPS_OF_NOTHING if current else self._steps(prepares=True)
        return self

    def begin(self) -> None:
        """The plan is made, and something is pending: how many steps it takes is known, and people are told once."""
        done = len(self.step.seconds) - 2  # a plan that has changed since people were asked is prepared again
        self.step.total = done + self._steps(prepares=self.backup is None)
        leave(outline(self.plan), f"plan-{self.environment}")
        if not self.told:
            tell(self.environment, "started", f"A deploy to revision {self.plan.target_revision} has begun.")
            self.told = True

    def _steps(self, *, prepares: bool) -> int:
        """Check, plan, migrate, verify, report, and what the environment asks for besides."""
        wanted = self.settings.deploy
        asked = [wanted.reindex, wanted.prune, bool(self.settings.watch.duration)]
        asked += [prepares and wanted.backup, prepares and wanted.backup and wanted.drill]
        if self.waits:  # and a check again
            approved = self.stored is not None and not self.stored.missing
            asked += [True, self.wants_window, bool(self.settings.approvals.required) and not approved]
        return 5 + sum(asked)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave(error)
        finally:
            self._lock.__exit__(kind, error, trace)

    def lock(self) -> None:
        """Take the database's operation lock; another deploy of this database is refused from here on."""
        self.operation = self._lock.enter_context(operation(self.settings, "deploy"))

    def unlock(self) -> None:
        """Give it back, and every connection with it, while people or clocks are waited for."""
        self._lock.close()

    def _leave(self, error: BaseException | None) -> None:
        if error is not None and self.stored:
            with suppress(OpsError):  # a plan that stays open expires
                approvals.move(self.settings, self.stored.id, "abandoned")
        if not isinstance(error, Exception):
            if error is not None and self.told:
                tell_interrupted(self.environment, "deploy", error, self.operation.changing)
            return
        state: DeployState = "refused" if isinstance(error, Refused) else "failed"
        self.operation.end_state = "rolled-back" if self.undone and not isinstance(error, RowsMissing) else "failed"
        document = self._document(state, self.undone.fingerprint if self.undone else self.before, error)
        attach(error, document)
        leave_report(self, document)
        tell_deploy_failed(self.environment, error, self.undone)

    @contextmanager
    def aside(self, title: str) -> Iterator[Track]:
        """A step after the database is verified: its failure is reported and undoes nothing."""
        try:
            with self.step(title) as current:
                yield current
        except OpsError as error:
            self.warnings.append(f"{title}: {error}")
            note(f"{title} failed, the deploy stands: {error}")

    @contextmanager
    def or_back(self, rollback: Callable[..., RollbackDocument]) -> Iterator[None]:
        """When the block fails, the rollback flow runs as a subflow; then the block's own error goes on."""
        try:
            yield
        except Exception as error:
            note(f"failed: {error}")
            try:
                undone = self._undo(rollback, error)
            except RowsMissing as missing:  # it went back, and not all is as it was
                found = attached(missing)
                self.undone = found if isinstance(found, RollbackDocument) else None
                raise RowsMissing(f"{_said(error)}; {missing.message}", hint=missing.hint) from error
            except OpsError as barred:
                raise RollbackFailed(
                    f"{_said(error)}; and the rollback failed: {barred.message}", hint=barred.hint
                ) from error
            if isinstance(error, OpsError):
                error.hint = stands(undone, self.before, error)
            self.undone = undone if undone.state != "nothing-to-undo" else None
            raise

    def document(self, state: DeployState, fingerprint_after: str) -> DeployDocument:
        """The run's result; its report goes to the run's page."""
        document = self._document(state, fingerprint_after, None)
        leave_report(self, document)
        if state != "scheduled":
            tell_deployed(document)
        return document

    def _undo(self, rollback: Callable[..., RollbackDocument], error: Exception) -> RollbackDocument:
        """Nothing is to undo where the failed migration's own transaction was rolled back."""
        try:
            undone = rollback(environment=self.environment, strategy="auto", reason=f"deploy failed: {said(error)}")
        except OpsError:
            raise
        except Exception as gone:
            # Prefect's server died, say. The way back must not depend on it.
            note(f"the flow engine failed ({type(gone).__name__}): rolling back without it")
            undone = ended(self.environment, roll_back(self.operation, Request(only_operation=True)), auto=True)
        if undone.state != "nothing-to-undo" and self.before is not None and undone.fingerprint != self.before:
            note(f"the fingerprint after the rollback is {undone.fingerprint}, it was {self.before}")
        return undone

    def _document(self, state: DeployState, after: str | None, error: Exception | None) -> DeployDocument:
        planned, migrated = self.planned, self.migrated
        scheduled_for: datetime | None = self.stored.scheduled_for if self.stored and state == "scheduled" else None
        revision = planned.revision if planned else ""
        if migrated and not self.undone and planned:
            revision = planned.target_revision
        return DeployDocument(
            state=state,
            environment=self.environment,
            revision=(self.undone.revision if self.undone else revision) or None,
            backup=self.backup.id if self.backup else None,
            rolled_back=bool(self.undone),
            fingerprint_before=self.before,
            fingerprint_after=after,
            applied=migrated.applied if migrated else (),
            adopted=migrated.adopted if migrated else (),
            plan=planned.hash if planned else None,
            seconds=self.step.seconds,
            warnings=tuple(self.warnings),
            approved_by=self.stored.approved_by if self.stored else (),
            predicted_seconds=self.stored.predicted_seconds if self.stored else None,
            scheduled_for=scheduled_for,
            flow_run=str(flow_run.id) if flow_run.id else None,
            error=_error_detail(error) if error else None,
        )


def _said(error: Exception) -> str:
    return error.message if isinstance(error, OpsError) else str(error)


def _error_detail(error: Exception) -> ErrorDetail:
    if isinstance(error, OpsError):
        return ErrorDetail(code=error.code, message=error.message, hint=error.hint)
    return ErrorDetail(code="internal", message=f"{type(error).__name__}: {error}")
