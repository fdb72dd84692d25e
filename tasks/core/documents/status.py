"""The `--json` document of `kg status`; the package says what holds for all."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from tasks.core.documents.base import Document, Part
from tasks.core.settings import Environment

Standing = Literal["safe", "not-safe", "nothing-yet", "not-configured", "unreachable"]


class RunningItem(Part):
    """An operation that its journal says is under way. `alive`: its lock is held; otherwise it died."""

    kind: str
    since: datetime
    host: str
    pid: int
    step: str | None = None
    alive: bool


class WaitingItem(Part):
    """A plan that waits for people or for its window."""

    plan: str = Field(description="Its hash")
    state: str
    started_by: str
    missing: int = Field(description="How many more people must agree")
    scheduled_for: datetime | None = None
    expires: datetime
    deserted: bool = Field(False, description="Waits for people, and its run no longer does: it crashed, say")


class FailedItem(Part):
    """The newest deploy or rollback, where it did not go well."""

    kind: str
    state: Literal["failed", "rolled-back", "interrupted", "died"]
    at: datetime


class ProvedBackup(Part):
    id: str
    created: datetime = Field(description="What was written since is not in it")
    proved_at: datetime
    grade: Literal["restorable", "readable"]
    restore_seconds: float
    stored_bytes: int


class EnvironmentStatus(Part):
    environment: Environment
    standing: Standing
    verdict: str = Field(description="Am I safe? One line")
    next: str = Field("", description="What to do where it is not safe")
    revision: str | None = None
    pending: tuple[str, ...] = Field((), description="Revisions that a deploy would apply")
    backup: ProvedBackup | None = Field(None, description="The newest that a drill has restored, of this database")
    windows: bool = Field(False, description="It may be changed in its windows only")
    window_start: datetime | None = Field(None, description="Of the window that is open, or the next one")
    window_end: datetime | None = None
    running: tuple[RunningItem, ...] = ()
    waiting: tuple[WaitingItem, ...] = ()
    failed: FailedItem | None = Field(None, description="The newest deploy or rollback, where it did not go well")
    exists: bool = Field(True, description="False: it is dev without an address, and nothing was ever made of it")

    @property
    def fine(self) -> bool:
        """Is there nothing to be called for?"""
        return self.standing in ("safe", "not-configured") or not self.exists


class StatusDocument(Document):
    """`kg status`."""

    safe: bool = Field(description="Every environment that is configured is safe: the exit status is 0")
    environments: tuple[EnvironmentStatus, ...]
