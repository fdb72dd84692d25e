"""The verb that answers "am I safe?" on one screen: status."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import render
from flows.cli.answer import answer
from flows.cli.display import age, duration
from flows.cli.options import Json, Output, Verbose

if TYPE_CHECKING:
    from tasks.core.documents.status import EnvironmentStatus, StatusDocument

AnyEnvironment = Annotated[
    str | None, typer.Argument(metavar="[ENVIRONMENT]", help="Default: all of them.", show_default=False)
]

_MARKS = {"safe": "✓", "not-safe": "✗", "unreachable": "✗", "nothing-yet": "-", "not-configured": "-"}


def status(environment: AnyEnvironment = None, json: Json = False, verbose: Verbose = False) -> int:
    """Say whether each environment is safe, and what to do where it is not. Reads only.

    Revision, the last proved backup with its age and restore time, the next window, what is running and what waits.
    """

    def work() -> StatusDocument:
        from typing import get_args

        from tasks.core.settings import Environment, environment_named

        wanted = [environment_named(environment)] if environment is not None else list(get_args(Environment))
        from tasks.core.operations.status import status

        return status(wanted)

    return answer(Output(json, verbose), work, show)


def show(document: StatusDocument) -> None:
    """A table of the environments that answered, and a verdict for each."""
    now = datetime.now(UTC)
    answered = [each for each in document.environments if each.standing in ("safe", "not-safe")]
    headings = ("environment", "revision", "proved backup", "age", "restores in", "next window", "running", "waits")
    render.table(headings, [_row(each, now) for each in answered])
    for each in document.environments:
        render.say(f"{_MARKS[each.standing]} {each.environment}: {each.verdict}")
        if each.next and each.standing != "not-configured":
            render.say(f"    next: {each.next}")


def _row(one: EnvironmentStatus, now: datetime) -> tuple[str, ...]:
    backup = one.backup
    return (
        one.environment,
        (one.revision or "none") + (f" (+{len(one.pending)} pending)" if one.pending else ""),
        backup.id if backup else "none",
        age(now - backup.created) if backup else "-",
        duration(backup.restore_seconds) if backup else "-",
        _window(one, now),
        "; ".join(f"{each.kind}{'' if each.alive else ' (died)'}" for each in one.running) or "-",
        "; ".join(_waits(each.state, each.missing) for each in one.waiting) or "-",
    )


def _window(one: EnvironmentStatus, now: datetime) -> str:
    if not one.windows:
        return "any time"
    if one.window_start is None or one.window_end is None:
        return "none"
    if one.window_start <= now:
        return f"open until {one.window_end.astimezone():%a %H:%M}"
    return f"{one.window_start.astimezone():%Y-%m-%d %H:%M}"


def _waits(state: str, missing: int) -> str:
    return f"a plan, for {missing} approval{'' if missing == 1 else 's'}" if missing else f"a plan ({state})"
