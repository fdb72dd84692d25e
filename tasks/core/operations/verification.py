"""The whole verification of an environment: the database against its revision, then the application's side."""

from __future__ import annotations

from tasks.core.application.health import check_application
from tasks.core.schema.report import Report
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings


def remedy_for(report: Report, environment: str) -> str:
    """What to do after a verification that failed."""
    failing = [check for check in report.checks if check.status == "failed"]
    if [check.name for check in failing] == ["revision"]:  # no file, or another: the database is not to blame
        return failing[0].remedy or f"kg deploy {environment}"
    return (
        f"kg rollback {environment} goes back to before the newest deploy; what somebody changed by hand is to be "
        f"changed back by hand, or restored with kg rollback {environment} --strategy restore"
    )


def verify_environment(settings: Settings, *, probes: bool = True) -> Report:
    """Raises ConnectionFailed, DatabaseError where the connection is lost."""
    return Report((*verify(settings, probes=probes).checks, *check_application(settings)))
