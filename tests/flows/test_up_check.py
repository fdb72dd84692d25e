"""`kg up --check`: what an operator who runs Prefect himself is told of a server that is not whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli.engine import OwnServer
from tests.terminal import clean_environment, kg

pytestmark = pytest.mark.slow

FLOWS = ("backup", "check", "deploy", "prune", "recover", "reindex", "restore-drill", "rollback", "verify")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What points at a Prefect server on which nobody has made anything."""
    home = tmp_path_factory.mktemp("prefect")
    ours = {"PREFECT_HOME": str(home), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        server = OwnServer(clean_environment(**ours))
    try:
        server.wait()
        yield {**ours, "PREFECT_API_URL": server.url, "KG_HOME": str(home / "kg")}
    finally:
        server.stop()


@pytest.fixture
def client(variables: dict[str, str]) -> Iterator[Any]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: variables["PREFECT_API_URL"]}), get_client(sync_client=True) as made:
        yield made


def test_a_server_with_nothing_of_ours(variables: dict[str, str]) -> None:
    done = kg("up", "--check", **variables)
    said = done.stderr.splitlines()
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert said[:2] == [
        "staging: left out, STAGING_DB_URL is not set",
        "production: left out, PRODUCTION_DB_URL is not set",
    ]
    lacking, ending = said[2:-2], " ".join(said[-2:])
    assert sorted(lacking) == sorted(
        [
            "work pool kg: not there",
            *(f"deployment {flow}/dev: not there" for flow in FLOWS),
            "automations: what they watch and start is not there",
        ]
    )
    assert f"{len(lacking)} things are missing on {variables['PREFECT_API_URL']}" in ending
    assert "kg up makes them, and starts a worker" in ending


def limit_of(client: Any, flow: str) -> tuple[int, str] | None:
    """How many runs of it at once, and what becomes of one more."""
    found = client.read_deployment_by_name(f"{flow}/dev")
    if found.global_concurrency_limit is None:
        return None
    return found.global_concurrency_limit.limit, found.concurrency_options.collision_strategy.value


def test_what_is_lacking_is_named_one_by_one(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate

    from flows.cli.up.registry import missing, pause_pool, register

    register(client, ["dev"])
    assert list(missing(client, ["dev"])) == ["work pool kg: no worker is online"]
    assert {flow: limit_of(client, flow) for flow in FLOWS} == {
        **dict.fromkeys(("backup", "deploy", "prune", "recover", "reindex", "restore-drill"), (1, "ENQUEUE")),
        **dict.fromkeys(("check", "rollback", "verify"), None),  # nobody waits for a way back
    }
    register(client, ["dev"])
    assert list(missing(client, ["dev"])) == ["work pool kg: no worker is online"], "made again, it is the same"

    nightly, drill, prune = (
        client.read_deployment_by_name(f"{name}/dev") for name in ("backup", "restore-drill", "prune")
    )
    client.delete_deployment(prune.id)
    client.delete_deployment_schedule(nightly.id, nightly.schedules[0].id)
    client.update_deployment(drill.id, DeploymentUpdate(tags=["mine"]))
    pause_pool(client, True)
    heartbeat, recover = (
        client.read_automations_by_name(f"kg: {name}")[0]
        for name in ("no heartbeat means Crashed", "Crashed means recover dev")
    )
    client.pause_automation(heartbeat.id)
    client.delete_automation(recover.id)
    monkeypatch.setenv("KG_NOTIFY_URLS", "json://127.0.0.1:9/a-secret-path")
    assert sorted(missing(client, ["dev"])) == [
        "address 1 of KG_NOTIFY_URLS: not there, for the alarm about a dead worker",
        "automation 'kg: Crashed means recover dev': not there",
        "automation 'kg: no heartbeat means Crashed': switched off",
        "deployment backup/dev: lacks its schedule nightly",
        "deployment prune/dev: not there",
        "deployment restore-drill/dev: lacks its tags",
        "work pool kg: no worker is online",
        "work pool kg: paused; no run starts",
    ]

    register(client, ["dev"])
    pause_pool(client, False)
    assert sorted(missing(client, ["dev"])) == [
        "automation 'kg: no heartbeat means Crashed': switched off",  # which is the operator's business
        "work pool kg: no worker is online",
    ]


def test_a_pool_that_is_gone_is_said_and_no_traceback(client: Any, variables: dict[str, str]) -> None:
    """Whoever deletes it leaves the deployments, which then run nowhere."""
    from flows.cli.up.registry import register

    register(client, ["dev"])
    client.delete_work_pool("kg")
    done = kg("up", "--check", KG_NOTIFY_URLS="json://127.0.0.1:9/a-secret-path", **variables)
    assert done.returncode == 1
    assert "work pool kg: not there" in done.stderr.splitlines()
    assert "automations: what they watch and start is not there" in done.stderr
    assert "Traceback" not in done.stderr
    assert "a-secret-path" not in done.stderr


def test_where_no_server_is(tmp_path: Path) -> None:
    done = kg("up", "--check", PREFECT_HOME=str(tmp_path), KG_HOME=str(tmp_path / "kg"))
    assert done.returncode == 1
    assert "no Prefect server: PREFECT_API_URL is not set, and no kg up is running" in done.stderr
