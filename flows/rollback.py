"""The ways back: revert, restore, reset; `auto` takes the first that discards nothing."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.confirmation import typed
from flows.guard import own_environment
from flows.steps import Steps
from flows.telling import tell_rolled_back, telling
from tasks.core.backup.library import check_exists
from tasks.core.documents import RollbackDocument, Strategy
from tasks.core.errors import UsageError
from tasks.core.operations.operation import operation
from tasks.core.release.approvals import kept
from tasks.core.settings import Environment, Settings, load_settings
from tasks.core.store.base import open_store
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
    to: str = "",
    confirm: str = "",
) -> RollbackDocument:
    """Undo what the newest deploy did. A no-op where there is nothing to undo; safe to run again.

    Without the engine's server: `kg rollback ENVIRONMENT`.

    Args:
        environment: Whose database is rolled back. It must be the deployment's own.
        strategy: auto reverts, else restores, and never discards a row by itself; revert runs the down scripts of the
            newest deploy; restore swaps our tables for a backup's; reset empties our tables and indexes again.
        backup: Id of the backup to restore, like 20260101T020000Z-0123abcd. Empty means the newest proved one.
        reason: Why, in a sentence. It goes into the database's journal.
        yes: Accept that rows go. Without it, a revert, restore or reset that would lose rows is refused, and says how
            many and of which tables.
        salvage: With restore, keep what was written since the backup - exported to the store, and applied again
            where it still fits.
        whole_database: With restore, take everybody's tables, not only ours, and end every session.
        to: With auto or revert, the revision to go back to, like 001, or none. Empty undoes the newest deploy, and
            nothing where that has been taken back already.
        confirm: Needed here. Type the environment's name, to the letter; anything else is refused and nothing is
            touched.
    """
    own_environment(environment)
    typed(environment, confirm)
    reason = kept(reason)
    settings = load_settings(environment)
    _check_request(settings, strategy, backup, salvage=salvage, whole_database=whole_database, to=to)
    steps = Steps(2)
    with telling(environment, "rollback"), operation(settings, "rollback") as run:
        run.describe(rollback={"strategy": strategy, "reason": reason})
        with steps("Roll back"):
            if run.kind == "rollback":
                settle_earlier(environment)
            undone = undo(environment, strategy, backup, yes, salvage, whole_database, to)
        if not undone.nothing:
            with steps("Verify"):
                verify_rolled_back(environment, undone)
        close_earlier(environment)
        run.end_state = "done" if undone.nothing else "rolled-back"
    with telling(environment, "rollback"):
        document = ended(environment, undone, auto=strategy == "auto")
    document = document.model_copy(update={"flow_run": str(flow_run.id) if flow_run.id else None})
    tell_rolled_back(document, reason)
    return document


def _check_request(
    settings: Settings, strategy: Strategy, backup: str, *, salvage: bool, whole_database: bool, to: str
) -> None:
    """What cannot be done is said before the database is opened. Raises UsageError, BackupError."""
    if whole_database and (strategy != "restore" or salvage):
        raise UsageError("--whole-database goes with --strategy restore, and without --salvage")
    if to and strategy not in ("auto", "revert"):
        raise UsageError("--to goes with --strategy auto or revert")
    if backup:
        check_exists(open_store(settings), settings.environment, backup)
