"""Between a deploy's preparation and its migration: store the plan, ask people, find the window, schedule."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Scheduled

from tasks.artifacts import leave
from tasks.core.backup import library
from tasks.core.backup.manifest import Backup
from tasks.core.errors import BackupError
from tasks.core.operations.gates import proof_gate
from tasks.core.operations.operation import current
from tasks.core.operations.plan import DeployPlan
from tasks.core.operations.rehearsed import Rehearsed
from tasks.core.postgres.connections import connect, describe, target
from tasks.core.progress import say
from tasks.core.release import approvals
from tasks.core.release.approvals import Waiting
from tasks.core.release.describe import Prepared, rehearsed_seconds
from tasks.core.release.describe import describe as describe_plan
from tasks.core.release.prediction import Prediction, predict
from tasks.core.release.windows import has_windows, next_window
from tasks.core.schema.hazards import lint
from tasks.core.settings import Environment, Settings, load_settings
from tasks.core.store.base import open_store
from tasks.steps import step

OWN_ENGINE = "KG_OWN_ENGINE"  # set by kg where the server lives only as long as the command


@step("find prepared")
def find_prepared(environment: Environment, plan: DeployPlan) -> Waiting | None:
    """The same plan, prepared earlier, that people have agreed to or that waits for its window."""
    found = approvals.open_plans(current().conn, environment)
    return next((each for each in found if each.hash == plan.hash and each.state != "waiting"), None)


@step("still proved")
def still_proved(environment: Environment, plan: DeployPlan, backup: str | None, fingerprint: str) -> Backup | None:
    """The backup of that id where it is as good as a new one: there, proved, young enough, of this very state."""
    settings = load_settings(environment)
    if backup is None:
        return None
    try:
        found = library.find(open_store(settings), environment, backup)
    except BackupError:
        return None
    strict = settings.model_copy(update={"deploy": settings.deploy.model_copy(update={"require_proof": True})})
    with connect(target(settings), purpose="gates", database=settings.database) as conn:
        gate = proof_gate(conn, strict, plan, found)
    return found if gate.status == "ok" and found.manifest.fingerprint == fingerprint else None


@step("store plan")
def store_plan(
    environment: Environment,
    plan: DeployPlan,
    backup: Backup | None,
    rehearsed: tuple[Rehearsed, ...],
    started_by: str,
    override: str,
) -> Waiting:
    """Keep what was prepared, with what the approvers are shown of it; its page shows the same."""
    settings, now = load_settings(environment), datetime.now(UTC)
    prepared = _prepared(settings, plan, backup, rehearsed, started_by or approvals.NOBODY, override, now)
    document = describe_plan(prepared, now)
    leave(document, f"plan-{environment}")
    seconds = prepared.prediction.seconds
    stored = approvals.store(
        current().conn,
        settings,
        plan,
        started_by=started_by,
        flow_run=str(flow_run.id) if flow_run.id else None,
        backup=backup.id if backup else None,
        predicted_seconds=seconds,
        document=document,
        detail={"rehearsal": [each.to_detail() for each in rehearsed]},
    )
    say(f"{plan.hash}: about {seconds:.0f} s on the database ({prepared.prediction.because})")
    return stored


def _prepared(
    settings: Settings,
    plan: DeployPlan,
    backup: Backup | None,
    rehearsed: tuple[Rehearsed, ...],
    started_by: str,
    override: str,
    now: datetime,
) -> Prepared:
    prediction = _predicted(settings, rehearsed)
    return Prepared(
        plan=plan,
        linted=lint(plan.pending, describe(current().conn).major),
        rehearsed=rehearsed,
        backup=backup,
        prediction=prediction,
        opening=next_window(settings, now, prediction.duration) if has_windows(settings) else None,
        override=override,
        started_by=started_by,
    )


def _predicted(settings: Settings, rehearsed: tuple[Rehearsed, ...]) -> Prediction:
    ratios = approvals.past_ratios(current().conn, settings.environment)
    return predict(rehearsed_seconds(rehearsed), ratios, settings.watch.duration)


@step("release")
def release_plan(environment: Environment, plan: Waiting) -> Waiting:
    """It may run now. The journal of this operation has what the preparation found, as if it had done both."""
    settings = load_settings(environment)
    approvals.move(settings, plan.id, "released")
    current().describe(rehearsal=list(plan.detail.get("rehearsal", ())))
    found = approvals.look(settings, plan.id)
    say(f"plan {plan.hash}, approved by {', '.join(found.approved_by) or 'nobody: none is asked for'}")
    return found


@step("schedule")
def schedule_deploy(
    environment: Environment, plan: Waiting, at: datetime, terminate_idle_blockers: bool
) -> UUID | None:
    """A run of deployment deploy/<environment> at that time, once for each plan and time.

    None where no server that outlives this process has that deployment, or no worker polls for it.
    """
    if os.environ.get(OWN_ENGINE):
        return None
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(f"deploy/{environment}")
        except ObjectNotFound:
            return None
        if not is_polled(client, deployment.work_pool_name):
            return None
        run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={
                "environment": environment,
                "plan": plan.hash,
                "started_by": plan.started_by,
                "terminate_idle_blockers": terminate_idle_blockers,
            },
            state=Scheduled(scheduled_time=at),
            idempotency_key=f"{plan.id}-{at:%Y%m%dT%H%M%S}",
        )
    return run.id


def is_polled(client: SyncPrefectClient, pool: str | None) -> bool:
    """Does a worker take its runs? It counts as ready while one has sent a heartbeat in the last half minutes."""
    if pool is None:
        return False
    status = client.read_work_pool(pool).status
    return bool(status and status.value == "READY")


def waits(settings: Settings, override: str) -> bool:
    """Is there anybody or anything to wait for in this environment?"""
    return bool(settings.approvals.required or (has_windows(settings) and not override))


def heads_up(settings: Settings, opens: datetime) -> datetime:
    """When a scheduled run starts: early enough to prepare and to tell people."""
    return max(datetime.now(UTC) + timedelta(seconds=1), opens - settings.approvals.notice)
