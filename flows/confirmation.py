"""What a person typed into a deployment's form before data is at stake."""

from __future__ import annotations

from prefect.context import FlowRunContext

from tasks.core.errors import NotConfirmed, quoted
from tasks.core.settings import Environment


def typed(environment: Environment, confirm: str) -> None:
    """Return where `confirm` is the environment's name, to the letter, or where no form has asked for it.

    A run of a deployment was started by a form (or an API call) that anybody can send half filled in; `kg` asks in its
    terminal, and a deploy that rolls itself back has nobody to ask. Raises NotConfirmed; nothing was opened.
    """
    if confirm == environment or (not confirm and not _of_deployment()):
        return
    given = f"{quoted(confirm)} was typed" if confirm else "nothing was typed"
    raise NotConfirmed(
        f"the rollback of {environment} was not confirmed: {given} into `confirm`; nothing was touched",
        hint=f"run it again, and type {environment} into `confirm`",
    )


def _of_deployment() -> bool:
    """This very run is a deployment's. Its subflows are not: their parent has been confirmed, or approved."""
    running = FlowRunContext.get()
    return bool(running and running.flow_run and running.flow_run.deployment_id)
