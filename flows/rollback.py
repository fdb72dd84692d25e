"""The ways back: revert, restore, reset; `auto` takes the first that discards nothing."""

from __future__ import annotations

from prefect import flow

from flows.guard import own_environment
from flows.steps import Steps
from flows.telling import tell_rolled_back, telling
from tasks.core.documents import RollbackDocument, Strategy
from tasks.core.errors import UsageError
from tasks.core.operations.operation import operation
from tasks.core.settings import Environment, load_settings
from tasks.database import verify_rolled_back
from tasks.recovery import close_earlier, settle_earlier
from tasks.ways_back import ended, undo


@flow(name="rollback", flow_run_name="rollback {environment} {strategy}")
def rollback(
    environment: Environment,
    strategy: Strategy = "auto",
    backup: str = "",
    reason: str = "",
    yes: bool = False,
    salvage: bool = False,
    whole_database: bool = False,
) -> RollbackDocument:
    """Undo what the newest deploy did. A no-op where there is nothing to undo; safe to run again.

    Args:
        environment: Which environment's database.
        strategy: revert runs the down scripts; restore swaps our tables for a backup's; reset empties the tables and
            indexes again; auto reverts, else restores, and never discards data by itself.
        backup: The backup to restore; empty means the newest proved one.
        reason: Why, for the journal.
        yes: With revert, restore or reset, rows may go: of dropped tables, or written since the backup.
        salvage: Before a restore, export what was written since to the store; after it, apply again what still fits.
        whole_database: Restore the whole database, as the guide does: everyone's tables, and every session is ended.
    """
    own_environment(environment)
    if whole_database and (strategy != "restore" or salvage):
        raise UsageError("--whole-database goes with --strategy restore, and without --salvage")
    steps = Steps(2)
    with telling(environment, "rollback"), operation(load_settings(environment), "rollback") as run:
        run.describe(rollback={"strategy": strategy, "reason": reason})
        with steps("Roll back"):
            if run.kind == "rollback":
                settle_earlier(environment)
            undone = undo(environment, strategy, backup, yes, salvage, whole_database)
        if not undone.nothing:
            with steps("Verify"):
                verify_rolled_back(environment, undone)
        close_earlier(environment)
        run.end_state = "done" if undone.nothing else "rolled-back"
    with telling(environment, "rollback"):
        document = ended(environment, undone, auto=strategy == "auto")
    tell_rolled_back(document, reason)
    return document
