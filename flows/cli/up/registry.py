"""What `kg up` makes on the Prefect server: the work pool, the deployments of prefect.yaml, the automations.

Everything here can be done again: what is there and right is left, and what an operator switched off stays off.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound, PrefectException

from flows.cli.up.alarm import missing_addresses, save_addresses, worker_alarm
from flows.cli.up.crashes import crash_automations
from tasks.core.errors import EngineFailed
from tasks.core.settings import CHECKOUT, Environment

POOL = "kg"


def register(client: SyncPrefectClient, environments: list[Environment]) -> None:
    """Make what is missing. Raises EngineFailed where Prefect refuses it, or the pool is not for processes."""
    pool = make_pool(client)
    if pool.type != "process":
        raise EngineFailed(
            f"the work pool {POOL} is of type {pool.type}; kg up brings a process worker",
            hint="there: `prefect --no-prompt deploy --all`, and a worker of that type (deployments/README.md)",
        )
    for _, entry in wanted_deployments(environments):
        try:
            make_deployment(client, entry)
        except PrefectException as error:
            name = f"{entry['entrypoint']} of {entry['name']}"
            raise EngineFailed(f"prefect.yaml: {name} was not registered: {error}") from error
    save_addresses(environments)
    for wanted in automations(client, environments):
        make_automation(client, wanted)


def make_deployment(client: SyncPrefectClient, entry: dict[str, Any]) -> None:
    """As `prefect deploy` makes it of an entry of prefect.yaml, which takes seconds for each."""
    limit = entry.get("concurrency_limit")
    deployment = RunnerDeployment.from_entrypoint(
        entry["entrypoint"],
        name=entry["name"],
        parameters=entry["parameters"],
        description=entry["description"],
        tags=entry["tags"],
        concurrency_limit=ConcurrencyLimitConfig(**limit) if limit else None,
        work_pool_name=POOL,
    )
    schedules = [_schedule(each) for each in entry.get("schedules", ())]
    made = deployment.apply(schedules=schedules, work_pool_name=POOL)
    assert isinstance(made, UUID)  # a coroutine it would be in an event loop only
    # It says that the code is in this folder, and the worker would copy that, a gigabyte with .venv, for each run.
    client.update_deployment(made, DeploymentUpdate(path=None))


def _schedule(entry: dict[str, Any]) -> dict[str, Any]:
    """Says nothing of `active`: the server then keeps what it has."""
    cron = CronSchedule(cron=entry["cron"], timezone=entry["timezone"])
    return {"schedule": cron, "slug": entry["slug"], "parameters": entry.get("parameters", {})}


def make_pool(client: SyncPrefectClient) -> WorkPool:
    try:
        return client.read_work_pool(POOL)
    except ObjectNotFound:
        description = "Runs of kg-operations; `kg up` pauses it while it waits for runs to end."
        return client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description=description))


def pause_pool(client: SyncPrefectClient, paused: bool) -> None:
    client.update_work_pool(POOL, WorkPoolUpdate(is_paused=paused))


def automations(client: SyncPrefectClient, environments: list[Environment]) -> Iterator[AutomationCore]:
    """What the server does by itself when a run dies, and when no worker is left."""
    yield from crash_automations(client, environments)
    yield from worker_alarm(client, POOL, environments)


def make_automation(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Create it, or bring it up to date where it differs; whether it is enabled is the operator's."""
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return
    kept = wanted.model_copy(update={"enabled": found[0].enabled})
    if _said(found[0]) != _said(kept):
        client.update_automation(found[0].id, kept)


def worker_is_online(client: SyncPrefectClient) -> bool:
    """Does a worker take the pool's runs?"""
    return any(worker.status == "ONLINE" for worker in client.read_workers_for_work_pool(POOL))


def missing(client: SyncPrefectClient, environments: list[Environment]) -> Iterator[str]:
    """What `kg up` would make or start, a line each; nothing where all is there."""
    pool = yield from _pool_missing(client)
    there = {each.name: each for each in _deployments(client, environments)}
    for name, wanted in wanted_deployments(environments):
        yield from _differences(name, wanted, there.get(name))
    yield from missing_addresses(client, environments)
    if not pool or any(f"recover/{environment}" not in there for environment in environments):
        yield "automations: what they watch and start is not there"
        return
    for automation in automations(client, environments):
        found = client.read_automations_by_name(automation.name)
        if not found:
            yield f"automation {automation.name!r}: not there"
        elif not found[0].enabled:
            yield f"automation {automation.name!r}: switched off"
        elif _said(found[0]) != _said(automation):
            yield f"automation {automation.name!r}: is not as kg up makes it"


def _pool_missing(client: SyncPrefectClient) -> Generator[str, None, bool]:
    """Returns whether there is one."""
    try:
        pool = client.read_work_pool(POOL)
    except ObjectNotFound:
        yield f"work pool {POOL}: not there"
        return False
    if pool.is_paused:
        yield f"work pool {POOL}: paused; no run starts"
    if not worker_is_online(client):
        yield f"work pool {POOL}: no worker is online"
    return True


def wanted_deployments(environments: list[Environment]) -> Iterator[tuple[str, dict[str, Any]]]:
    """`flow/environment` and its entry in prefect.yaml."""
    for entry in yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]:
        if entry["name"] in environments:
            flow = str(entry["entrypoint"]).rpartition(".")[2].replace("_", "-")
            yield f"{flow}/{entry['name']}", entry


def _differences(name: str, wanted: dict[str, Any], found: DeploymentResponse | None) -> Iterator[str]:
    if found is None:
        yield f"deployment {name}: not there"
        return
    if (found.entrypoint, found.path, found.work_pool_name) != (wanted["entrypoint"], None, POOL):
        yield f"deployment {name}: is not what prefect.yaml says"
    if not set(wanted["tags"]) <= set(found.tags):
        yield f"deployment {name}: lacks its tags"
    slugs = {schedule.slug for schedule in found.schedules}
    for schedule in wanted.get("schedules", ()):
        if schedule["slug"] not in slugs:
            yield f"deployment {name}: lacks its schedule {schedule['slug']}"


def _deployments(client: SyncPrefectClient, environments: list[Environment]) -> Iterator[Any]:
    for name, _ in wanted_deployments(environments):
        try:
            found = client.read_deployment_by_name(name)
        except ObjectNotFound:
            continue
        yield found.model_copy(update={"name": name})


def _said(automation: AutomationCore) -> dict[str, Any]:
    """To be compared: events are sets here, whose order in JSON is by chance."""
    fields = {"name", "description", "enabled", "trigger", "actions"}
    known = AutomationCore.model_validate(automation.model_dump(include=fields))
    return known.model_dump(exclude={"trigger": {"id"}})
