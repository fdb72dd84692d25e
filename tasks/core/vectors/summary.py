"""Advice in a line an index, for `kg check`: read only, nothing timed, and given up after a few seconds."""

from __future__ import annotations

from datetime import timedelta

from tasks.core.errors import ConnectionFailed, OpsError
from tasks.core.schema.report import CheckResult, failed, ok, skipped
from tasks.core.settings import Settings
from tasks.core.vectors.advice import Advice, advise
from tasks.core.vectors.findings import PLANNER

ADVICE = "re-index advice"
_LIMIT = timedelta(seconds=5)  # of a statement: counting the vectors of a table beyond memory


def check_advice(settings: Settings) -> tuple[CheckResult, ...]:
    """One for each vector index of ours, none before there are tables. Raises ConnectionFailed."""
    database = settings.database.model_copy(update={"statement_timeout": _LIMIT})
    try:
        advice = advise(settings.model_copy(update={"database": database}), probes=False)
    except ConnectionFailed:
        raise
    except OpsError as error:
        return (skipped(ADVICE, f"{error.message}; kg reindex {settings.environment} takes its time"),)
    return tuple(_line(one, settings) for one in advice if one.of_revision)


def _line(one: Advice, settings: Settings) -> CheckResult:
    parameters = f"{one.name}: {one.rows:,} vectors, m={one.m}, ef_construction={one.ef_construction}"
    if one.reasons:
        m, ef_construction = one.suggested
        remedy = f"kg reindex {settings.environment} --apply builds it with m={m}, ef_construction={ef_construction}"
        return failed(ADVICE, f"{parameters}; {'; '.join(one.reasons)}", remedy)
    planner = next((line for line in one.findings if line.what == PLANNER and line.verdict != "ok"), None)
    if planner:
        return failed(ADVICE, f"{parameters}; {planner.figure}", planner.why)
    return ok(ADVICE, f"{parameters}: by these it may stay; kg reindex {settings.environment} measures recall and P95")
