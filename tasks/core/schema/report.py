"""What a check or a verification found, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import psycopg

from tasks.core.errors import OpsError
from tasks.core.postgres.connections import database_errors
from tasks.core.progress import counted

Status: TypeAlias = Literal["ok", "failed", "skipped", "note"]


@dataclass(frozen=True)
class CheckResult:
    """One line: what was looked at, how it is, and the figures. `remedy`: the command or statement that mends it, where
    there is one apart from the detail.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" + (f" ({self.remedy})" if self.remedy else "")


@dataclass(frozen=True)
class Report:
    """`ok` unless a check failed; a skipped one says why in its detail, a note is worth knowing and stops nothing."""

    checks: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        return all(check.status != "failed" for check in self.checks)

    @property
    def counted(self) -> str:
        """How many of each kind, in a line: '10 checks are fine, 1 failed'."""
        counts = Counter(check.status for check in self.checks)
        also = [f"{counts[status]} {status}" for status in ("failed", "skipped") if counts[status]]
        notes = [check.name for check in self.checks if check.status == "note"]
        also += [f"{counted(len(notes), 'note')} ({', '.join(notes)})"] if notes else []
        fine = f"{counted(counts['ok'], 'check')} {'is' if counts['ok'] == 1 else 'are'} fine"
        return ", ".join([fine, *also])


def ok(name: str, detail: str) -> CheckResult:
    return CheckResult(name, "ok", detail)


def failed(name: str, detail: str, remedy: str = "") -> CheckResult:
    return CheckResult(name, "failed", detail, remedy)


def skipped(name: str, detail: str) -> CheckResult:
    return CheckResult(name, "skipped", detail)


def noted(name: str, detail: str, remedy: str = "") -> CheckResult:
    return CheckResult(name, "note", detail, remedy)


def run_check(name: str, check: Callable[[], CheckResult]) -> CheckResult:
    """What `check` found; where it could not look, that is what failed. A lost connection is raised, since then no
    check of the report means anything.
    """
    try:
        with database_errors(f"looking at {name}"):
            return check()
    except OpsError as error:
        if isinstance(error.__cause__, psycopg.OperationalError) and error.__cause__.sqlstate is None:
            raise
        return failed(name, error.message, error.hint or "")
