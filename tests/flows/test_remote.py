"""`--remote`: a verb as a run of its deployment, by the worker of a real `kg up`; refused where nobody would run it.

That `kg up` listens on every address and asks for a password, as one for a team does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from tasks.core.addresses import Address
from tasks.core.errors import EngineFailed
from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tests.flows.bed import SLOW, Up, client, target, up, up_bed
from tests.processes import free_port
from tests.terminal import kg

__all__ = ["client", "target", "up"]

pytestmark = pytest.mark.timeout(600)

OTHERS = "20260101T020000Z-0123abcd"
PASSWORD = "operator:its-password"


@pytest.fixture(scope="module")
def running(postgres: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    asked = {"PREFECT_SERVER_API_AUTH_STRING": PASSWORD, "PREFECT_API_AUTH_STRING": PASSWORD}
    with up_bed(postgres, tmp_path_factory.mktemp("up"), "dev", **asked) as made:
        made.words = ("--host", "0.0.0.0")
        made.edit("dev", r"^(backup|drill|reindex|prune) = true", r"\1 = false")
        made.start()
        yield made


def remote(up: Up, *words: str) -> Any:
    return kg(*words, "--remote", seconds=SLOW, **up.variables)


def test_others_reach_it_with_the_password_only(up: Up) -> None:
    for address in ("127.0.0.1", "127.0.0.2"):  # the one that is listened on by default, and another of this machine
        url = f"http://{address}:{up.port}/api/deployments/count"
        assert httpx.post(url, json={}).status_code == httpx.codes.UNAUTHORIZED
        assert httpx.post(url, json={}, auth=("operator", "wrong")).status_code == httpx.codes.UNAUTHORIZED
        answer = httpx.post(url, json={}, auth=("operator", "its-password"))
        assert (answer.status_code, answer.json() > 0) == (httpx.codes.OK, True), "its own start has registered them"
    others = {**up.variables, "PREFECT_API_AUTH_STRING": "operator:wrong", "PREFECT_SERVER_API_AUTH_STRING": ""}
    done = kg("deploy", "dev", "--remote", "--yes", **others)
    assert done.returncode == 1, done.stderr
    assert f"the Prefect server at http://127.0.0.1:{up.port} asks who we are (401)" in done.stderr
    assert "hint: set PREFECT_API_AUTH_STRING=user:password" in done.stderr
    assert "its-password" not in up.log


def test_a_deploy_by_the_worker_is_followed_to_its_end(up: Up, client: Any, target: Connection) -> None:
    done = remote(up, "deploy", "dev", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["state"], document["deployment"], document["error"]) == ("completed", "deploy/dev", None)
    run = client.read_flow_run(UUID(document["flow_run"]))
    assert run.deployment_id == client.read_deployment_by_name("deploy/dev").id
    assert document["page"] == f"http://127.0.0.1:{up.port}/v2/runs/flow-run/{run.id}"
    assert [entry.revision for entry in ledger.entries(target)] == ["001"]


def test_its_steps_and_its_page_are_shown(up: Up) -> None:
    done = remote(up, "deploy", "dev", "--yes")
    assert done.returncode == 0, done.stderr
    assert f"http://127.0.0.1:{up.port}/v2/runs/flow-run/" in done.stderr
    for line in (r"\[1/\d+\] Check: ", r"\[2/\d+\] Plan: ", r"\[3/3\] Verify: "):
        assert re.search(line, done.stderr), done.stderr
    assert done.stdout.startswith("deploy/dev ended well: http")


def test_the_exit_status_is_the_runs(up: Up, target: Connection) -> None:
    failed = remote(up, "rollback", "dev", "--strategy", "restore", "--backup", OTHERS, "--yes", "--json")
    assert failed.returncode == 1, failed.stderr
    document = json.loads(failed.stdout)
    assert (document["state"], document["error"]["code"]) == ("failed", "backup")
    assert f"there is no backup {OTHERS} of dev" in document["error"]["message"]
    assert document["error"]["hint"] == document["page"]
    usage = remote(up, "rollback", "dev", "--strategy", "restore", "--backup", "../production/x", "--yes")
    assert usage.returncode == 2, usage.stderr
    assert [entry.revision for entry in ledger.entries(target)] == ["001"]


def test_a_rollback_by_the_worker(up: Up, target: Connection) -> None:
    unconfirmed = remote(up, "rollback", "dev", "--strategy", "revert")
    assert (unconfirmed.returncode, "was not confirmed" in unconfirmed.stderr) == (3, True)
    assert [entry.revision for entry in ledger.entries(target)] == ["001"]
    done = remote(up, "rollback", "dev", "--strategy", "revert", "--yes")
    assert done.returncode == 0, done.stderr
    assert target.execute("SELECT to_regclass('code_embeddings')").fetchone() == (None,)


def test_a_machine_without_the_database_may_start_it(up: Up, target: Connection) -> None:
    """It has the server's address alone, in another PREFECT_HOME."""
    own = {
        "PREFECT_API_URL": f"http://127.0.0.1:{up.port}/api",
        "PREFECT_API_AUTH_STRING": PASSWORD,
        "PREFECT_HOME": str(up.folder / "elsewhere"),
    }
    done = kg("deploy", "dev", "--remote", "--yes", "--json", seconds=SLOW, KG_HOME=str(up.folder / "elsewhere"), **own)
    assert done.returncode == 0, done.stderr
    assert [entry.state for entry in ledger.entries(target)] == ["applied"]


@pytest.fixture
def paused(client: Any) -> Iterator[None]:
    from flows.cli.up.registry import pause_pool

    pause_pool(client, True)
    yield
    pause_pool(client, False)


def test_a_paused_pool_is_refused(up: Up, client: Any, paused: None) -> None:
    before = len(client.read_flow_runs())
    assert_refused(remote(up, "backup", "dev"), "the work pool kg is paused")
    assert len(client.read_flow_runs()) == before


def test_no_server_is_refused(tmp_path: Path) -> None:
    own = {"PREFECT_HOME": str(tmp_path), "KG_HOME": str(tmp_path / "home")}
    for verb in ("deploy", "rollback", "backup"):
        assert_refused(kg(verb, "dev", "--remote", **own), "no Prefect server")
    dead = f"http://127.0.0.1:{free_port()}/api"
    assert_refused(kg("deploy", "dev", "--remote", PREFECT_API_URL=dead, **own), "no Prefect server at PREFECT_API_URL")
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("engine")
def test_a_server_without_deployment_or_worker_is_refused(tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from flows.cli.up.registry import POOL, make_deployment, make_pool, wanted_deployments

    own = {"PREFECT_API_URL": PREFECT_API_URL.value() or "", "PREFECT_HOME": str(tmp_path)}
    assert_refused(kg("backup", "staging", "--remote", **own), "has no deployment backup/staging")
    with get_client(sync_client=True) as client:
        make_pool(client)
        make_deployment(client, dict(wanted_deployments(["staging"]))["backup/staging"])
        assert_refused(kg("backup", "staging", "--remote", **own), "no worker takes the runs of backup/staging")
        client.delete_deployment(client.read_deployment_by_name("backup/staging").id)
        client.delete_work_pool(POOL)


def assert_refused(done: Any, why: str) -> None:
    assert done.returncode == 3, done.stderr
    assert why in done.stderr
    assert "hint: kg up" in done.stderr


@pytest.mark.usefixtures("engine")
def test_a_server_that_is_lost_meanwhile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client

    from flows.cli import remote as followed

    @flow
    def ours() -> None: ...

    def lost(*_: object) -> None:
        raise httpx.ConnectError("Connection refused")

    monkeypatch.setattr(followed, "_wait", lost)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(ours)
        with pytest.raises(EngineFailed, match="does not answer any more; the run may go on") as failed:
            followed._followed(client, run, "dev", "deploy/dev", lambda run: f"http://page/{run}")
    assert f"kg status dev says how the database stands; http://page/{run.id}" in (failed.value.hint or "")
