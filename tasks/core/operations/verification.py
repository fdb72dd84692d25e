"""The whole verification of an environment: the database against its revision, then the application's side."""

from __future__ import annotations

from tasks.core.application.health import check_application
from tasks.core.schema.report import Report
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings


def verify_environment(settings: Settings, *, probes: bool = True) -> Report:
    """Raises ConnectionFailed, DatabaseError where the connection is lost."""
    return Report((*verify(settings, probes=probes).checks, *check_application(settings)))
