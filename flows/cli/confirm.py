"""Asking a person, on the terminal's error stream, so that standard output stays the document's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.options import StrategyName
from flows.cli.plain import printable
from tasks.core.errors import NotConfirmed
from tasks.core.progress import counted

if TYPE_CHECKING:
    from tasks.core.operations.plan import DeployPlan
    from tasks.core.settings import Settings

QUESTION = "Continue? (yes/no): "
PREVIEW_LINES = 12


def confirm(what: str) -> None:
    """Return when a person has answered yes. `what` completes "... was not confirmed".

    Raises NotConfirmed where the answer is no, or nobody is there to answer.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotConfirmed(
            f"{what} was not confirmed: nobody is at the terminal",
            hint="--yes confirms it; run in a terminal it is asked",
        )
    while True:
        sys.stderr.write(QUESTION)
        sys.stderr.flush()
        line = sys.stdin.readline()
        answer = line.strip().lower()
        if answer in ("yes", "y"):
            return
        if answer in ("no", "n") or not line:
            raise NotConfirmed(f"{what} was not confirmed; nothing was done")
        sys.stderr.write("Please answer yes or no.\n")


def agreed_plan(settings: Settings, yes: bool) -> str:
    """Show what is pending, and ask unless `yes`. The hash of the plan that a person agreed to; else empty."""
    from tasks.core.operations.plan import preview

    plan = preview(settings)
    if plan.nothing_pending:
        return ""
    asked = not yes and settings.deploy.confirm != "none"
    show_plan(plan, whole=asked)
    if not asked:
        return ""
    from tasks.core.release.approvals import last_rehearsal

    for line in last_rehearsal(settings, plan):
        _say(line)
    confirm(f"the deploy to {settings.environment}")
    return plan.hash


def show_plan(plan: DeployPlan, *, whole: bool) -> None:
    """What a deploy would run, on the error stream: each pending file to its end for a person who is asked, else how
    it begins, and where the rest is.
    """
    _say(f"{plan.environment} (database {plan.database}) is at revision {plan.revision or 'none'}.")
    for migration in plan.adopted:
        _say(f"Revision {migration.revision} {migration.name} is there already and is adopted without running.")
    for migration in plan.pending:
        lines = migration.sql.splitlines()
        _say(f"\n{migration.up.name} ({counted(len(lines), 'line')}):\n{'-' * 60}")
        shown = lines if whole or len(lines) <= PREVIEW_LINES + 1 else lines[:PREVIEW_LINES]
        _say(printable("\n".join(shown)))
        if len(shown) < len(lines):
            _say(f"... and {len(lines) - len(shown)} more lines: {_path(migration.up)}")
        _say("-" * 60)


def _path(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def say_unseen(environment: str) -> None:
    """Where only the worker knows the database."""
    _say(f"{environment} is not set up on this machine: its worker does it, and what is done is not shown here before.")


def show_rollback(
    settings: Settings,
    strategy: StrategyName,
    backup: str | None,
    *,
    salvage: bool = False,
    whole_database: bool = False,
    to: str | None = None,
) -> None:
    """What a rollback would do, on the error stream. Rows at stake stop it later, with their count, without --yes."""
    which = f"all that was applied above revision {to}" if to else "what the newest deploy applied"
    source = f"backup {backup}" if backup else "the newest proved backup"
    what = {
        StrategyName.AUTO: f"revert {which}; where that cannot be, restore its backup if nothing written since "
        "would be lost",
        StrategyName.REVERT: f"run the down scripts of {which}",
        StrategyName.RESTORE: f"swap our tables for those of {source}, keeping the replaced ones until pruned",
        StrategyName.RESET: "empty our tables, keep the schema, and run the environment's index command",
    }[strategy]
    if whole_database:
        what = f"exchange the whole database, everyone's tables, for {source}, and end every session in it"
    if salvage:
        what += "; where a restore is made, rows written since are exported and applied again as far as they fit"
    where = settings.address.label if settings.address else "the embedded server"
    _say(f"This will roll back {settings.environment} ({where}): {what}.")


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201
