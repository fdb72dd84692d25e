"""`kg deploy`: from one revision to the next, with a proved backup behind and a way back at every instant."""

from __future__ import annotations

from prefect import flow

from flows.deployment import Deployment
from flows.guard import own_environment
from flows.rollback import rollback
from tasks.backups import make_backup, prove_and_rehearse, prune_backups
from tasks.core.documents import DeployDocument
from tasks.core.operations.operation import operation
from tasks.core.settings import Environment, load_settings
from tasks.database import (
    check_target,
    migrate_target,
    open_gates,
    plan_deploy,
    read_fingerprint,
    verify_earlier,
    verify_target,
    watch_target,
)
from tasks.recovery import close_earlier, settle_earlier
from tasks.vectors import advise_reindex


@flow(name="deploy", flow_run_name="deploy {environment}")
def deploy(environment: Environment, plan: str = "", terminate_idle_blockers: bool = False) -> DeployDocument:
    """Check, plan, back up, prove and rehearse, migrate, verify, watch, advise, prune, report.

    When migrate, verify or watch fails, the rollback flow runs and this run ends Failed. Advice and prune come after
    that: what fails there is reported, and undoes nothing.

    Args:
        environment: Which environment's database.
        plan: Hash of the plan that was approved; another plan is refused. Empty means whatever is pending.
        terminate_idle_blockers: End sessions that block a migration by idling in a transaction, after showing them.
    """
    own_environment(environment)
    settings = load_settings(environment)
    wanted = settings.deploy
    with operation(settings, "deploy") as held, Deployment(environment, held) as run:
        run.step.total += bool(settings.watch.duration)
        with run.step("Check"):
            settle_earlier(environment)
            with run.or_back(rollback):
                verify_earlier(environment)
            close_earlier(environment)
            check_target(environment)
        with run.step("Plan"):
            run.planned = plan_deploy(environment, plan)
            run.before = read_fingerprint(environment)
        if run.planned.nothing_pending:
            run.step.total = 3
            with run.step("Verify"), run.or_back(rollback):
                verify_target(environment)
            return run.document("nothing-pending", read_fingerprint(environment))
        if wanted.backup:
            with run.step("Back up"):
                run.backup = make_backup(environment)
        if run.backup and wanted.drill:
            with run.step("Restore drill"):
                run.backup, run.rehearsed = prove_and_rehearse(environment, run.backup.id, run.planned)
        with run.step("Migrate"):
            open_gates(environment, run.planned, run.backup)
            with run.or_back(rollback):
                run.migrated = migrate_target(environment, run.planned, run.backup, terminate_idle_blockers)
        with run.or_back(rollback), run.step("Verify"):
            verify_target(environment)
        if settings.watch.duration:
            with run.or_back(rollback), run.step("Watch"):
                watch_target(environment)
        if wanted.reindex:
            with run.aside("Re-index advice"):
                advise_reindex(environment)
        if wanted.prune:
            with run.aside("Prune"):
                prune_backups(environment, apply=True)
        with run.step("Report"):
            return run.document("deployed", read_fingerprint(environment))
