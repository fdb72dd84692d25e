"""Between prepare and apply: who must agree, which window, and whether all is still as it was prepared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from flows.deployment import Deployment
from flows.rollback import rollback
from flows.waiting import await_approval, await_window
from tasks.backups import make_backup, prove_and_rehearse
from tasks.core.errors import Refused, UsageError
from tasks.core.progress import note
from tasks.core.release import approvals
from tasks.core.settings import Settings, load_settings
from tasks.database import plan_deploy, read_fingerprint
from tasks.release import release_plan, still_proved, store_plan


def overriding(settings: Settings, started_by: str, now: bool, reason: str) -> str:
    """Why no window is waited for; empty where it is. Raises UsageError for --now without a reason, Refused where the
    starter has no name though others must agree. Signs that nobody sees are neither.
    """
    if now and not approvals.seen(reason):
        raise UsageError("deploying now, outside of the windows, needs a reason", hint="--now --reason TEXT")
    if approvals.seen(started_by):
        approvals.proper_name(started_by)
    elif settings.approvals.required:
        raise Refused(
            f"{settings.environment} asks for approvals, and nobody says who starts this deploy",
            hint="fill in started_by: the starter's own name does not count among the approvers",
        )
    return approvals.kept(reason) if now else ""


def await_release(run: Deployment, terminate_idle_blockers: bool) -> Literal["released", "changed", "scheduled"]:
    """Approval and window, with neither lock nor connection held. Where nobody asks for them, at once."""
    if not run.waits:
        return "released"
    stored = run.stored = run.stored or store_plan(
        run.environment, run.plan, run.backup, run.rehearsed, run.started_by, run.override
    )
    run.unlock()
    if stored.missing:
        with run.step("Approval"):
            run.stored = await_approval(run.settings, stored.id)
    while True:
        run.settings = load_settings(run.environment)  # people may take a day: a freeze written meanwhile counts
        run.opening = None
        if run.wants_window:
            with run.step("Window"):
                run.opening = await_window(run.environment, stored, terminate_idle_blockers)
            if run.opening is None:
                run.stored = approvals.look(run.settings, stored.id)
                return "scheduled"
        run.lock()
        if not same_again(run):
            return "changed"
        if has_room(run):
            return "released"
        run.unlock()


def same_again(run: Deployment) -> bool:
    """With the lock held again: is it still this plan? A backup that is too old by now, or of another state, is made
    and proved anew.
    """
    environment, approved = run.environment, run.plan.hash
    with run.step("Check again"):
        run.settle(rollback)
        plan = plan_deploy(environment, "" if run.settings.approvals.required else approved)
        run.planned, run.before = plan, read_fingerprint(environment)
    if plan.hash != approved:
        note(f"the plan has changed while it waited: {approved} is now {plan.hash}; it is prepared and asked for anew")
        run.stored = run.backup = None
        return False
    backup = still_proved(environment, plan, run.backup.id if run.backup else None, run.before)
    if run.backup and backup is None:
        with run.step("Back up again"):
            run.backup = make_backup(environment)
        with run.step("Restore drill again"):
            run.backup, run.rehearsed = prove_and_rehearse(environment, run.backup.id, plan)
    return True


def has_room(run: Deployment) -> bool:
    """Is enough left of the window, after a second backup perhaps? Then the plan is let in."""
    stored = run.stored
    assert stored is not None
    if run.opening and run.opening.left(datetime.now(UTC)) < timedelta(seconds=stored.predicted_seconds):
        note(f"the window {run.opening} has too little left by now")
        return False
    run.stored = release_plan(run.environment, stored)
    return True
