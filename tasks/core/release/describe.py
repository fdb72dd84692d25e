"""What approvers are shown of a prepared deploy, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.core.backup.manifest import Backup
from tasks.core.markdown import block, code, inline
from tasks.core.operations.plan import DeployPlan
from tasks.core.operations.rehearsed import Rehearsed
from tasks.core.release.prediction import Prediction
from tasks.core.release.windows import Opening
from tasks.core.schema.hazards import Linted
from tasks.core.schema.migrations import Migration

FORM_CHARACTERS = 200_000
_FENCE = re.compile("`{3,}")


@dataclass(frozen=True)
class Prepared:
    """What a deploy's preparation has found out. `opening` is the window it is meant for, None: at any time."""

    plan: DeployPlan
    linted: Linted
    rehearsed: tuple[Rehearsed, ...]
    backup: Backup | None
    prediction: Prediction
    opening: Opening | None
    override: str
    started_by: str


def describe(prepared: Prepared, now: datetime) -> str:
    """The form's description: what is pending, its SQL, hazards, rehearsal, backup, duration and window."""
    plan = prepared.plan
    lines = [
        _title(plan),
        f"{_way(plan)}; started by {inline(prepared.started_by)}.",
        "",
        "| | |",
        "|---|---|",
        f"| backup | {inline(_backup(prepared.backup))} |",
        f"| predicted duration | {prepared.prediction.seconds:.0f} s ({inline(prepared.prediction.because)}) |",
        f"| window | {inline(_window(prepared, now))} |",
        f"| hazards | {inline(_counted(prepared.linted))} |",
    ]
    lines += [f"| adopted without running | {inline(each.label)} |" for each in plan.adopted]
    for migration in plan.pending:
        lines += _migration(migration, _found(migration, prepared))
    return "\n".join(lines)


def outline(plan: DeployPlan) -> str:
    """The same, of a plan that is just made: what is pending, and its SQL."""
    lines = [_title(plan), f"{_way(plan)}.", ""]
    lines += [f"- adopted without running: {inline(each.label)}" for each in plan.adopted]
    for migration in plan.pending:
        lines += _migration(migration, [])
    return "\n".join(lines)


def _title(plan: DeployPlan) -> str:
    return f"# Deploy to {plan.environment} (plan {code(plan.hash)})"


def _way(plan: DeployPlan) -> str:
    where = f"from revision {inline(plan.revision or 'none')} to {inline(plan.target_revision)}"
    return f"Database {code(plan.database)} goes {where}"


def _backup(backup: Backup | None) -> str:
    if backup is None:
        return "none: the gate asks for a proved one before anything runs"
    rows = sum(backup.manifest.tables.values())
    proof = backup.proof
    proved = f"{proof.grade}, restored in {proof.restore_seconds:.1f} s" if proof else "not proved"
    return f"{backup.id}, {rows:,} rows, {proved}"


def _window(prepared: Prepared, now: datetime) -> str:
    if prepared.override:
        return f"overridden by {prepared.started_by}: {prepared.override}"
    if prepared.opening is None:
        return "none is set: at any time"
    return f"{'now open, ' if prepared.opening.is_open(now) else ''}{prepared.opening}"


def _counted(linted: Linted) -> str:
    found = sum(len(each) for each in linted.hazards.values())
    return f"{found} found by {linted.linter}" if linted.hazards or found else linted.linter


def _migration(migration: Migration, found: Sequence[str]) -> list[str]:
    kinds = [] if migration.transactional else ["outside a transaction"]
    kinds += ["irreversible: its way back is a restore"] if migration.irreversible else []
    script = migration.sql.splitlines()
    said = f" ({'; '.join(kinds)})" if kinds else ""
    return ["", f"## {inline(migration.label)}{said}", *(f"- {each}" for each in found), "", *block(script, "sql")]


def fitting(document: str, environment: str, most: int = FORM_CHARACTERS) -> str:
    """A description for a form, which a browser draws: to the letter, or cut, saying so and where all of it is."""
    if len(document) <= most:
        return document
    kept = document[: document.rfind("\n", 0, most)]
    open_fence = ""
    for line in kept.split("\n"):
        if open_fence:
            open_fence = "" if line == open_fence else open_fence
        elif fence := _FENCE.match(line):
            open_fence = fence[0]
    shown, lines = kept.count("\n") + 1, document.count("\n") + 1
    where = f"kg approve {environment} --name NAME shows all of it, and so does the plan among this run's artifacts"
    return f"{kept}\n{open_fence}\n\n⚠ **{lines - shown:,} of {lines:,} lines do not fit in here**: {where}."


def _found(migration: Migration, prepared: Prepared) -> list[str]:
    """Hazards and rehearsal, in Markdown."""
    hazards = [
        f"⚠ line {each.line}: {inline(f'{each.message} {each.remedy} [{each.rule}]')}"
        for each in prepared.linted.hazards.get(migration.revision, ())
    ]
    return hazards + [inline(each) for each in prepared.rehearsed if each.revision == migration.revision]


def rehearsed_seconds(rehearsed: Sequence[Rehearsed]) -> float | None:
    """Of all ways up; None where nothing was rehearsed."""
    return sum(each.up_seconds for each in rehearsed) if rehearsed else None
