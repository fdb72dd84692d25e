"""`kg recover`: after a crash, finish or undo what the dead run had begun."""

from __future__ import annotations

from prefect import flow

from flows.guard import own_environment
from flows.telling import tell_recovered, telling
from tasks.core.documents import RecoverDocument
from tasks.core.operations.operation import operation
from tasks.core.settings import Environment, load_settings
from tasks.recovery import recover_target, reopen_target


@flow(name="recover", flow_run_name="recover {environment}")
def recover(environment: Environment, terminate: bool = False) -> RecoverDocument:
    """Read the journal, wait for the sessions of the dead run, finish or undo, verify. Safe to run at any time.

    Args:
        environment: Which environment's database.
        terminate: End the sessions of the dead run instead of waiting for them; each is named first.
    """
    own_environment(environment)
    with telling(environment, "recovery"):
        opened = reopen_target(environment)
        with operation(load_settings(environment), "recover", terminate=terminate):
            document = RecoverDocument.of(environment, recover_target(environment, opened))
    tell_recovered(document)
    return document
