"""The task of the rollback flow."""

from __future__ import annotations

from tasks.artifacts import rollback_artifact
from tasks.core.documents import RollbackDocument, attach
from tasks.core.errors import RowsMissing
from tasks.core.operations.missing import require_rows
from tasks.core.operations.operation import current
from tasks.core.operations.rollback import Request, RolledBack, Strategy, roll_back
from tasks.core.operations.whole import restore_whole
from tasks.core.progress import say
from tasks.core.settings import Environment
from tasks.steps import step


@step("roll back")
def undo(
    environment: Environment,
    strategy: Strategy,
    backup: str,
    yes: bool,
    salvage: bool = False,
    whole_database: bool = False,
    to: str = "",
) -> RolledBack:
    """Undo by `strategy`. Within a failed deploy: only what that deploy has applied. Never retried blindly."""
    operation = current()
    if whole_database:
        undone = restore_whole(operation, backup or None, accept_loss=yes)
        rollback_artifact(environment, undone)
        return undone
    only = operation.kind == "deploy"
    request = Request(strategy, backup or None, yes=yes, only_operation=only, salvage=salvage, to=to)
    undone = roll_back(operation, request)
    rollback_artifact(environment, undone)
    say("nothing to undo" if undone.nothing else f"by {undone.strategy}, now at revision {undone.revision or 'none'}")
    return undone


def ended(environment: Environment, undone: RolledBack, *, auto: bool) -> RollbackDocument:
    """What the rollback comes to. With `auto`, RowsMissing (the document attached) where the revert left rows missing:
    to revert by name is to know that.
    """
    document = RollbackDocument.of(environment, undone)
    if auto:
        try:
            require_rows(environment, undone)
        except RowsMissing as missing:
            attach(missing, document)
            raise
    return document
