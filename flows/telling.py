"""What a flow tells of its end, in the words of the people who get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.exceptions import PrefectSignal

from tasks.core.backup.manifest import Backup
from tasks.core.backup.retention import RetentionPlan
from tasks.core.documents import DeployDocument, RecoverDocument, RollbackDocument
from tasks.core.errors import NotConfirmed, OpsError, SettingsError, UsageError, VerificationFailed
from tasks.core.notifications.events import Event
from tasks.core.operations.operation import had_begun, within_another
from tasks.core.schema.report import Report
from tasks.core.settings import Environment
from tasks.notices import tell


@contextmanager
def telling(environment: Environment, what: str, event: Event = "failed") -> Iterator[None]:
    """When the block fails, whoever is to be told of `event` is; the error goes on. A typing mistake is no news."""
    try:
        yield
    except Exception as error:
        if not _mistyped(error):
            tell(environment, event, f"The {what} did not go well: {said(error)}")
        raise
    except BaseException as error:
        if not within_another():  # the deploy that it belongs to tells it
            tell_interrupted(environment, what, error, had_begun(error), event)
        raise


def tell_interrupted(
    environment: Environment, what: str, error: BaseException, begun: bool, event: Event = "failed"
) -> None:
    """Ctrl-C, or a signal: whoever was told that it began is told that it ended. A pause is no end."""
    if isinstance(error, PrefectSignal | GeneratorExit):
        return
    after = f"What it had begun is settled by kg recover {environment}, or by the next deploy or rollback."
    untouched = f"It had not begun to change the database. kg status {environment} says where it stands."
    tell(environment, event, f"The {what} was interrupted. {after if begun else untouched}")


def _mistyped(error: Exception) -> bool:
    return isinstance(error, NotConfirmed | UsageError) and not isinstance(error, SettingsError)


def said(error: BaseException) -> str:
    """An error in a message: ours with its hint, another's by its kind alone, whose text could hold anything."""
    return str(error) if isinstance(error, OpsError) else f"{type(error).__name__} (the run's log says more)"


def stands(undone: RollbackDocument, before: str | None, error: OpsError) -> str:
    """Where the database stands after a deploy failed, and what to do next. `before` is its fingerprint then."""
    where = f"{undone.environment} is at revision {undone.revision or 'none'}"
    if undone.state != "nothing-to-undo":
        state = f"rolled back by {undone.strategy}: {where} again"
    elif before in (undone.fingerprint, None):
        state = f"{undone.environment} is as it was, at revision {undone.revision or 'none'}"
    else:
        state = f"{where}, with what the script had done: kg recover {undone.environment} undoes it"
    # What a verification failed of is in its message; to look again shows the database after the rollback.
    gone = isinstance(error, VerificationFailed) and undone.state != "nothing-to-undo"
    kept = None if gone else error.hint
    return f"{state}; {kept or 'mend that and deploy again'}"


def tell_backed_up(environment: Environment, made: Backup) -> None:
    rows = sum(made.manifest.tables.values())
    proof = f"It is proved ({made.proof.grade})." if made.proof else "It is not proved yet."
    text = f"The database is backed up: {rows:,} rows of {len(made.manifest.tables)} tables. {proof}"
    tell(environment, "succeeded", text, backup=made.id)


def tell_pruned(environment: Environment, plan: RetentionPlan) -> None:
    """Nothing deleted is no news."""
    gone = [each.id for each in (*plan.delete, *plan.sweep, *plan.replaced)]
    if gone:
        text = f"{len(gone)} deleted by the retention, {len(plan.keep)} backups kept."
        tell(environment, "pruned", text, deleted=", ".join(gone))


def tell_rolled_back(document: RollbackDocument, reason: str) -> None:
    if document.state == "rolled-back":
        why = f" Why: {reason}" if reason else ""
        text = f"Rolled back by {document.strategy}; it is at revision {document.revision or 'none'} now.{why}"
        tell(document.environment, "rolled-back", text, backup=document.backup or "", replaced=document.replaced or "")


def tell_recovered(document: RecoverDocument) -> None:
    if document.state == "recovered":
        dead = ", ".join(f"a {each.kind} of {each.started:%Y-%m-%d %H:%M} UTC" for each in document.dead)
        done = "; ".join(f"{each.what} {each.subject}" for each in document.actions)
        had = f"What had died: {dead}" if dead else "No run had died, but one had left something to settle"
        text = f"{had}. What was done: {done or 'nothing was left to do'}."
        tell(document.environment, "recovered", f"{text} It is at revision {document.revision or 'none'} now.")


def tell_old_proof(environment: Environment, report: Report) -> None:
    for each in report.checks:
        if each.name == "proved backup" and each.status == "failed":
            tell(environment, "proof-too-old", f"{each.detail}.", next=each.remedy)


def tell_deployed(document: DeployDocument) -> None:
    """Also of a deploy that found nothing to do."""
    applied = ", ".join((*document.applied, *document.adopted))
    text = f"Applied: {applied}." if applied else "Nothing was pending."
    warnings = " ".join(f"But: {each}." for each in document.warnings)
    text = f"{text} It is at revision {document.revision or 'none'}, verified. {warnings}"
    tell(document.environment, "succeeded", text, backup=document.backup or "")


def tell_deploy_failed(environment: Environment, error: Exception, undone: RollbackDocument | None) -> None:
    after = "Its changes were rolled back." if undone else "kg status says where the database stands."
    tell(environment, "failed", f"A deploy did not go well: {said(error)}. {after}")
