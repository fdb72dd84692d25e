"""`kg up` for real: one server and worker for this file; runs by deployment, killed in every way, and recovered."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tests.flows.bed import SLEEPS, SLOW, Up, begin, client, ends, flow_process, running, runs, sleeping, target, up
from tests.processes import is_gone, until
from tests.terminal import kg

__all__ = ["client", "running", "target", "up"]

pytestmark = pytest.mark.timeout(600)

ANOTHER = "127.0.0.2"  # an address of this machine other than 127.0.0.1, which every Linux has


@pytest.fixture
def deploying(up: Up, client: Any, target: Connection) -> Callable[[], UUID]:
    """Starts a deploy of a second revision that never ends; its flow run, when the migration is under way."""
    up.migration("002_sleep", "CREATE TABLE half (id int);\n" + SLEEPS, "DROP TABLE half;\n")

    def start() -> UUID:
        run = begin(client, "deploy/dev")
        until(lambda: sleeping(target) or client.read_flow_run(run).state.is_final(), seconds=SLOW)
        assert not client.read_flow_run(run).state.is_final(), client.read_flow_run(run).state
        return run

    return start


def assert_as_before(conn: Connection) -> None:
    """Revision 001 whole, nothing of 002, no operation open, nobody at work."""
    assert [entry.revision for entry in ledger.entries(conn)] == ["001"]
    assert conn.execute("SELECT to_regclass('half')").fetchone() == (None,)
    assert conn.execute("SELECT count(*) FROM kg_ops.operation WHERE state = 'running'").fetchone() == (0,)
    assert not sleeping(conn)


def assert_recovered(client: Any, conn: Connection, before: int) -> None:
    """By one more run of recover than there were, which the automation has started."""
    until(lambda: len(runs(client, "recover/dev")) > before, seconds=30)
    newest = max(runs(client, "recover/dev"), key=lambda each: each.created)
    assert ends(client, newest.id).name == "Completed"
    assert_as_before(conn)


def assert_nothing_was_copied(pid: int) -> None:
    """The folder that the worker gave the run is empty: the project, with its environment, is a gigabyte."""
    assert list(Path(f"/proc/{pid}/cwd").iterdir()) == []


def test_nothing_is_missing_and_the_scheduler_makes_the_runs(up: Up, client: Any) -> None:
    done = kg("up", "--check", PREFECT_API_URL=f"http://127.0.0.1:{up.port}/api", **up.variables)
    assert done.returncode == 0, done.stderr
    assert "staging: left out, STAGING_DB_URL is not set" in done.stderr
    for name in ("backup/dev", "restore-drill/dev", "prune/dev"):
        until(lambda name=name: bool(runs(client, name)), seconds=SLOW)  # type: ignore[misc]
    nightly = min(runs(client, "backup/dev"), key=lambda run: run.expected_start_time)
    assert (nightly.expected_start_time.hour, nightly.expected_start_time.minute) == (2, 15)
    assert runs(client, "prune/dev")[0].parameters == {"environment": "dev", "apply": True}


def test_the_server_has_the_settings_that_matter(up: Up, client: Any) -> None:
    found = client.request("GET", "/admin/settings").json()
    assert found["server"]["concurrency"]["lease_storage"].endswith(".lease_storage.filesystem")
    assert found["server"]["analytics_enabled"] is False
    assert found["flows"]["heartbeat_frequency"] == 30
    assert found["server"]["ui"]["api_url"] == f"http://127.0.0.1:{up.port}/api"
    assert found["ui_url"] == f"http://127.0.0.1:{up.port}"


def test_it_listens_here_alone_and_its_children_have_sessions_of_their_own(up: Up) -> None:
    """So that a terminal's Ctrl-C, which goes to the whole session, leaves it to `kg up` who ends when."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ANOTHER, up.port), timeout=5)
    children = [*up.pids("flows.cli.up.worker"), *up.pids("flows.cli.server")]
    assert len(children) == 2
    assert [os.getsid(pid) for pid in children] == children


def test_a_schedule_that_was_switched_off_stays_off(up: Up, client: Any) -> None:
    from flows.cli.up.registry import register

    found = client.read_deployment_by_name("restore-drill/dev")
    client.update_deployment_schedule(found.id, found.schedules[0].id, active=False)
    register(client, ["dev"])
    again = client.read_deployment_by_name("restore-drill/dev")
    assert [(each.slug, each.active) for each in again.schedules] == [("weekly", False)]
    assert [each.active for each in client.read_deployment_by_name("backup/dev").schedules] == [True]


def test_a_deployment_carries_its_environment_and_refuses_another(up: Up, client: Any, target: Connection) -> None:
    run = begin(client, "deploy/dev")
    foreign = begin(client, "rollback/dev", environment="production")
    refused = ends(client, foreign)
    assert (refused.name, "belongs to dev, and its parameter says production" in refused.message) == ("Failed", True)
    assert ends(client, run).name == "Completed"
    assert [entry.revision for entry in ledger.entries(target)] == ["001"]


def test_kg_finds_the_server_by_itself(up: Up, client: Any) -> None:
    """The terminal's run is on the same server, tagged so that a crash of it is recovered, and beats."""
    done = kg("prune", "dev", "--apply", **up.variables)
    assert done.returncode == 0, done.stderr
    (run,) = [each for each in client.read_flow_runs() if each.name == "prune dev" and each.deployment_id is None]
    assert (run.state.name, run.tags) == ("Completed", ["environment:dev"])


def test_a_killed_flow_is_recovered(up: Up, client: Any, target: Connection, deploying: Callable[[], UUID]) -> None:
    before = len(runs(client, "recover/dev"))
    run = deploying()
    flow = flow_process(up, run)
    assert_nothing_was_copied(flow)
    os.kill(flow, signal.SIGKILL)
    assert ends(client, run).name == "Crashed"
    assert_recovered(client, target, before)


def test_a_flow_that_hangs_is_ended_once_it_counts_as_crashed(
    up: Up, client: Any, target: Connection, deploying: Callable[[], UUID]
) -> None:
    """Stopped, it neither dies nor beats, and holds the lock; test_silence shows that the server sees to its state."""
    from prefect.states import Crashed

    before = len(runs(client, "recover/dev"))
    run = deploying()
    flow = flow_process(up, run)
    os.kill(flow, signal.SIGSTOP)
    client.set_flow_run_state(run, Crashed(message="no heartbeat: its process died"), force=True)
    up.says(f"process {flow} of deploy dev hung, its run counts as crashed: it was ended")
    assert is_gone(flow)
    assert up.log.count(" hung, ") == 1, "one that is killed does not hang"
    assert_recovered(client, target, before)


def test_worker_and_flow_killed_together_are_recovered(
    up: Up, client: Any, target: Connection, deploying: Callable[[], UUID]
) -> None:
    before = len(runs(client, "recover/dev"))
    run = deploying()
    time.sleep(2)  # `kg up` looks every second
    for pid in (*up.pids("flows.cli.up.worker"), flow_process(up, run)):
        os.kill(pid, signal.SIGKILL)
    assert ends(client, run, seconds=20).name == "Crashed"
    up.says("another one is started")
    assert_recovered(client, target, before)


def test_the_first_signal_waits_the_second_ends_and_the_next_start_recovers(
    up: Up, client: Any, target: Connection, deploying: Callable[[], UUID]
) -> None:
    run = deploying()
    time.sleep(2)
    assert up.process
    up.process.send_signal(signal.SIGTERM)
    up.says("stopping; waiting for deploy dev")
    assert client.read_work_pool("kg").is_paused
    assert client.read_flow_run(run).state.name == "Running"
    time.sleep(1.5)
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(timeout=30) == 0, up.log
    assert "deploy dev: ended, and marked Crashed" in up.log
    assert up.pids("flows.cli.") == up.pids("prefect.engine") == []

    up.start()
    assert "dev: recovering what the dead run had begun" in up.log
    assert client.read_flow_run(run).state.name == "Crashed"
    assert not client.read_work_pool("kg").is_paused
    assert_as_before(target)


def test_kill_9_leaves_no_child(up: Up, target: Connection, deploying: Callable[[], UUID]) -> None:
    run = deploying()
    flow = flow_process(up, run)
    assert up.process
    up.process.kill()
    up.process.wait()
    until(lambda: not up.pids("flows.cli.") and is_gone(flow), seconds=5)


def test_it_listens_for_others_only_with_a_password(tmp_path: Path) -> None:
    done = kg("up", "--host", "0.0.0.0", PREFECT_HOME=str(tmp_path))
    assert done.returncode == 3
    assert "PREFECT_SERVER_API_AUTH_STRING" in done.stderr
