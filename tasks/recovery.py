"""Tasks that settle what earlier runs left behind."""

from __future__ import annotations

from tasks.artifacts import table
from tasks.core.operations import recover as recovering
from tasks.core.operations.operation import current
from tasks.core.operations.recover import Action, Recovered
from tasks.core.settings import Environment
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


@step("recover")
def recover_target(environment: Environment) -> Recovered:
    """All of it: settle, verify, keep or roll back, close."""
    done = recovering.recover(current())
    _artifact(environment, done.actions)
    return done


def _artifact(environment: Environment, actions: tuple[Action, ...]) -> None:
    rows = [
        {"what": each.what, "about": each.subject, "detail": each.detail, "command": each.command} for each in actions
    ]
    table(f"recover-{environment}", f"What was left of earlier runs of {environment}", rows)
