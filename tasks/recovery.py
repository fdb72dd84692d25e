"""Tasks that settle what earlier runs left behind."""

from __future__ import annotations

from dataclasses import replace

from tasks.artifacts import table
from tasks.core.operations import recover as recovering
from tasks.core.operations.operation import current
from tasks.core.operations.recover import Action, Recovered
from tasks.core.operations.whole import reopen
from tasks.core.settings import Environment, load_settings
from tasks.steps import step


@step("settle")
def settle_earlier(environment: Environment) -> tuple[Action, ...]:
    """Finish or undo what a run that died had begun, and drop its leftovers. A deploy's own rollback finds it done."""
    actions = recovering.settle(current())
    if actions:
        _artifact(environment, actions)
    return actions


@step("close earlier")
def close_earlier(environment: Environment) -> int:
    """Earlier runs are settled and what they applied is verified: mark them so; returns how many."""
    recovering.close(current())
    return len(current().abandoned)


@step("reopen")
def reopen_target(environment: Environment) -> tuple[str, ...]:
    """An exchange of the whole database that died has shut it: from the maintenance database, open it again."""
    return reopen(load_settings(environment))


@step("recover")
def recover_target(environment: Environment, opened: tuple[str, ...] = ()) -> Recovered:
    """All of it: settle, verify, keep or roll back, close. `opened`: what `reopen_target` dropped."""
    done = recovering.recover(current())
    died = "its process died before the renames; it takes connections again"
    first = tuple(Action("undone", f"exchange of the database by {name}", died) for name in opened)
    done = replace(done, actions=(*first, *done.actions))
    _artifact(environment, done.actions)
    return done


def _artifact(environment: Environment, actions: tuple[Action, ...]) -> None:
    rows = [
        {"what": each.what, "about": each.subject, "detail": each.detail, "command": each.command} for each in actions
    ]
    table(f"recover-{environment}", f"What was left of earlier runs of {environment}", rows)
