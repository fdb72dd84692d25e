"""The verb that answers "am I safe?" on one screen: status."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import tables
from flows.cli.answer import answer
from flows.cli.display import age, duration
from flows.cli.options import Json, Output, Verbose

if TYPE_CHECKING:
    from tasks.core.documents.status import EnvironmentStatus, FailedItem, StatusDocument, WaitingItem

AnyEnvironment = Annotated[
    str | None, typer.Argument(metavar="ENVIRONMENT", help="Default: all of them.", show_default=False)
]

_MARKS = {"safe": "✓", "not-safe": "✗", "unreachable": "✗", "nothing-yet": "-", "not-configured": "-"}
_INDENT = 14  # where verdicts and values begin


def status(environment: AnyEnvironment = None, json: Json = False, verbose: Verbose = False) -> int:
    """Say whether each environment is safe, and what to do where it is not. Reads only.

    Revision, the last proved backup with its age and restore time, the next window, how the last deploy went, what is
    running and what waits. Exit status 1 where an environment that is set up is not safe: for a monitor.
    """

    def work() -> StatusDocument:
        from typing import get_args

        from tasks.core.settings import Environment, environment_named

        wanted = [environment_named(environment)] if environment is not None else list(get_args(Environment))
        from tasks.core.operations.status import status

        return status(wanted)

    return answer(Output(json, verbose), work, show)


def show(document: StatusDocument) -> None:
    """A verdict for each environment, and beneath it what it rests on: it fits a terminal of 80 columns."""
    now = datetime.now(UTC)
    for each in document.environments:
        # What went wrong last is news, also where it left nothing behind.
        mark = "!" if each.standing == "safe" and each.failed else _MARKS[each.standing]
        _marked(mark, f"{each.environment:<12}{each.verdict}")
        if each.next and each.standing != "not-configured":
            _marked("", f"  {'next':<10}{each.next}", style="bold")
        # Where it could not be looked at, nothing is known: "revision none" would be a lie.
        looked = each.revision or each.backup or each.running or each.waiting or each.failed
        if each.standing == "safe" or (each.standing in ("not-safe", "nothing-yet") and looked):
            for name, value in _lines(each, now):
                _marked("", f"  {name:<10}{value}")


def _lines(one: EnvironmentStatus, now: datetime) -> Iterator[tuple[str, str]]:
    pending = f", {len(one.pending)} pending: {', '.join(one.pending)}" if one.pending else ""
    yield "revision", (one.revision or "none") + pending
    if backup := one.backup:
        yield "backup", f"{backup.id}, {age(now - backup.created)} old, restores in {duration(backup.restore_seconds)}"
    else:
        yield "backup", "none is proved"
    yield "window", _window(one, now)
    if one.failed:
        yield one.failed.kind, _went(one.failed, now)
    for each in one.running:
        step = f", at {each.step}" if each.step else ""
        yield "running" if each.alive else "died", f"{each.kind}{step}, begun {age(now - each.since)} ago"
    for plan in one.waiting:
        yield "waits", f"plan {plan.plan} of {plan.started_by}: {_waits(one, plan)}"


def _went(failed: FailedItem, now: datetime) -> str:
    """How the newest deploy or rollback ended, and when."""
    ended = {
        "failed": "failed",
        "rolled-back": "failed and was rolled back",
        "interrupted": "was interrupted",
        "died": "died, and was settled",
    }[failed.state]
    return f"the last one {ended}, {age(now - failed.at)} ago ({failed.at.astimezone():%Y-%m-%d %H:%M %Z})"


def _window(one: EnvironmentStatus, now: datetime) -> str:
    if not one.windows:
        return "any time"
    if one.window_start is None or one.window_end is None:
        return "none in the next 400 days"
    start, end = one.window_start.astimezone(), one.window_end.astimezone()
    if start <= now:
        return f"open until {end:%a %Y-%m-%d %H:%M %Z}"
    return f"next {start:%a %Y-%m-%d %H:%M} to {end:%a %H:%M %Z}"


def _waits(one: EnvironmentStatus, plan: WaitingItem) -> str:
    """For whom or what, until when, and how to answer."""
    if plan.deserted:
        return f"its run no longer waits (crashed, cancelled or hanging); kg deploy {one.environment} prepares it anew"
    if plan.missing:
        people = f"{plan.missing} approval{'' if plan.missing == 1 else 's'}"
        return f"{people} until {plan.expires.astimezone():%a %H:%M %Z} (kg approve {one.environment} --name NAME)"
    return (
        f"{plan.state} for {plan.scheduled_for.astimezone():%a %Y-%m-%d %H:%M %Z}" if plan.scheduled_for else plan.state
    )


def _marked(mark: str, text: str, style: str = "") -> None:
    """A line behind its mark, or its room; on a terminal in colour, and what is too long goes on beneath the values."""
    line = f"{mark or ' '} {text}"
    if not sys.stdout.isatty():
        tables.say(line.rstrip())
        return
    from rich.console import Console
    from rich.text import Text

    width = shutil.get_terminal_size().columns
    wrapped = textwrap.fill(line, width, subsequent_indent=" " * _INDENT, break_on_hyphens=False, drop_whitespace=True)
    shown = Text(wrapped, style=style)
    if mark:
        shown.stylize(tables.STYLES.get(mark, ""), 0, len(mark))
    Console().print(shown, soft_wrap=True)
