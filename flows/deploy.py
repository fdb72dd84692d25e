"""`kg deploy`: from one revision to the next, with a proved backup behind and a way back at every instant.

Three parts: prepare (changes nothing), release.await_release (people and clocks, with neither lock nor connection
held), apply (the lock again, and the database changes).
"""

from __future__ import annotations

from prefect import flow

from flows.deployment import STEPS_OF_NOTHING, Deployment
from flows.guard import own_environment
from flows.release import await_release, overriding
from flows.rollback import rollback
from tasks.backups import make_backup, prove_and_rehearse, prune_backups
from tasks.core.documents import DeployDocument
from tasks.core.settings import Environment, load_settings
from tasks.database import (
    check_target,
    migrate_target,
    open_gates,
    plan_deploy,
    read_fingerprint,
    verify_target,
    watch_target,
)
from tasks.release import find_prepared, still_proved
from tasks.vectors import advise_reindex


@flow(name="deploy", flow_run_name="deploy {environment}")
def deploy(
    environment: Environment,
    plan: str = "",
    terminate_idle_blockers: bool = False,
    started_by: str = "",
    now: bool = False,
    reason: str = "",
) -> DeployDocument:
    """Check, plan, back up, prove and rehearse; wait for people and the window; migrate, verify, watch, advise, prune.

    When migrate, verify or watch fails, the rollback flow runs and this run ends Failed. Advice and prune come after
    that: what fails there is reported, and undoes nothing.

    Args:
        environment: Which environment's database.
        plan: Hash of the plan that was approved; another plan is refused, or approved anew. Empty: whatever is pending.
        terminate_idle_blockers: End sessions that block a migration by idling in a transaction, after showing them.
        started_by: Your name. Where the environment asks for approvals, it does not count among them.
        now: Do not wait for a maintenance window. Needs a reason, which is recorded.
        reason: Why now.
    """
    own_environment(environment)
    settings = load_settings(environment)
    with Deployment(settings, started_by=started_by, override=overriding(settings, started_by, now, reason)) as run:
        prepare(run, plan)
        if run.plan.nothing_pending:
            return verify_only(run)
        while (release := await_release(run, terminate_idle_blockers)) == "changed":
            prepare(run)
        if release == "scheduled":
            return run.document("scheduled", run.before or "")
        apply(run, terminate_idle_blockers)
        with run.step("Report"):
            return run.document("deployed", read_fingerprint(environment))


def prepare(run: Deployment, plan: str = "") -> None:
    """Everything that a decision needs, with nothing changed: the plan, its way back, and what it takes on a copy."""
    environment, wanted = run.environment, run.settings.deploy
    with run.step("Check"):
        run.settle(rollback)
        check_target(environment)
    with run.step("Plan"):
        run.planned = plan_deploy(environment, "" if run.settings.approvals.required else plan)
        run.before = read_fingerprint(environment)
        if run.waits and (found := find_prepared(environment, run.planned)):
            run.stored = found
            run.backup = still_proved(environment, run.planned, found.backup, run.before)
    if run.plan.nothing_pending:
        return
    run.begin()
    if run.backup:
        return
    if wanted.backup:
        with run.step("Back up"):
            run.backup = make_backup(environment)
    if run.backup and wanted.drill:
        with run.step("Restore drill"):
            run.backup, run.rehearsed = prove_and_rehearse(environment, run.backup.id, run.plan)


def verify_only(run: Deployment) -> DeployDocument:
    run.step.total = STEPS_OF_NOTHING
    with run.step("Verify"), run.or_back(rollback):
        verify_target(run.environment)
    return run.document("nothing-pending", read_fingerprint(run.environment))


def apply(run: Deployment, terminate_idle_blockers: bool) -> None:
    """Migrate, and everything after it. From here on a failure leads back."""
    environment, wanted = run.environment, run.settings.deploy
    with run.step("Migrate"):
        open_gates(environment, run.plan, run.backup)
        with run.or_back(rollback):
            run.migrated = migrate_target(environment, run.plan, run.backup, terminate_idle_blockers, run.release)
    with run.or_back(rollback), run.step("Verify"):
        verify_target(environment)
    if run.settings.watch.duration:
        with run.or_back(rollback), run.step("Watch"):
            watch_target(environment)
    if wanted.reindex:
        with run.aside("Re-index advice"):
            advise_reindex(environment)
    if wanted.prune:
        with run.aside("Prune"):
            prune_backups(environment, apply=True)
