"""What nobody on the machine is left to tell, on a Prefect server of one's own: `kg up` is killed with its worker and
flows, and it is the server's automations that tell people, mark the runs, and have their environments recovered.
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tasks.core.errors import SettingsError
from tasks.core.postgres.connections import Connection
from tasks.core.release import approvals
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tests.core.test_notices import Webhook, webhook
from tests.flows.bed import ASK, SLEEPS, SLOW, Up, begin, client, ends, runs, sleeping, staging, target, up_bed
from tests.flows.own_server import PREFECT, prefect_env, prefect_server
from tests.processes import until
from tests.terminal import clean_environment, kg

__all__ = ["client", "staging", "target", "webhook"]

pytestmark = pytest.mark.timeout(900)  # a minute and a half on a quiet machine

SILENCE = 40  # seconds; Prefect's heartbeats come every 30 s at the most often
ALARM = 60.0  # a worker whose heartbeats come every 5 s counts as gone after three of them


@pytest.fixture
def up(postgres: Any, webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """With a server that is none of its children. dev migrates at once, staging asks somebody first."""
    folder = tmp_path_factory.mktemp("silence")
    quick = {"PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "1", "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S"}
    with (
        prefect_server(folder / "server", **quick) as url,
        up_bed(
            postgres,
            folder,
            "dev",
            "staging",
            PREFECT_API_URL=url,
            PREFECT_WORKER_HEARTBEAT_SECONDS="5",
            KG_SILENCE_SECONDS=str(SILENCE),
            KG_NOTIFY_URLS=f"json://{webhook.address}/",
        ) as made,
    ):
        made.port = int(url.rpartition(":")[2].partition("/")[0])
        for environment in made.databases:
            made.edit(environment, r"^(backup|drill|reindex|prune|require_proof) = true", r"\1 = false")
        made.edit("staging", "^required = 0", "required = 1")
        made.start()
        yield made


def state(conn: Connection) -> tuple[object, ...]:
    history = [(entry.revision, entry.state) for entry in ledger.history(conn)]
    return fingerprint(read_catalog(conn, "public")), history


def foreign_run(client: Any) -> UUID:
    """Somebody else's run on the same server, under way, whose heartbeat comes as seldom as Prefect's default says."""
    from prefect import flow
    from prefect.events import Event, Resource
    from prefect.states import Running

    @flow
    def theirs() -> None: ...

    run = client.create_flow_run(theirs, state=Running())
    beat = Event(
        event="prefect.flow-run.heartbeat",
        occurred=datetime.now(UTC),
        resource=Resource({"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}),
        related=[],
        id=uuid.uuid4(),
    )
    client.request("POST", "/events", json=[beat.model_dump(mode="json")])
    return UUID(str(run.id))


@contextmanager
def plain_worker(up: Up) -> Iterator[None]:
    """Prefect's own, on a machine that has never heard of a `kg up`."""
    with (up.folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            [PREFECT, "worker", "start", "--pool", "kg"],
            env=clean_environment(**{**prefect_env(), **up.variables, "PREFECT_HOME": str(up.folder / "prefect")}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def test_silence_is_noticed_told_and_recovered(
    up: Up, client: Any, target: Connection, staging: Connection, webhook: Webhook
) -> None:
    assert ends(client, begin(client, "deploy/dev")).name == "Completed"
    waiting = begin(client, "deploy/staging", started_by="Ada")
    until(lambda: client.read_flow_run(waiting).state.is_paused(), seconds=SLOW, pause=ASK)
    before = {"dev": state(target), "staging": state(staging)}
    up.migration("002_sleep", "CREATE TABLE half (id int);\n" + SLEEPS, "DROP TABLE half;\n")
    theirs = foreign_run(client)
    sleeps = begin(client, "deploy/dev")
    until(lambda: sleeping(target) or client.read_flow_run(sleeps).state.is_final(), seconds=SLOW, pause=ASK)

    kill_all(up)
    assert client.read_flow_run(sleeps).state.name == "Running"
    assert client.read_flow_run(waiting).state.name == "Paused"
    until(lambda: "kg: no worker is online" in titles(webhook), seconds=ALARM, pause=ASK)
    for run in (sleeps, waiting):
        crashed = ends(client, run, seconds=SILENCE + ALARM)
        assert (crashed.name, crashed.message) == ("Crashed", "no heartbeat: its process died")
    for environment in ("dev", "staging"):
        wanted = f"recover/{environment}"
        until(lambda wanted=wanted: bool(runs(client, wanted)), seconds=ALARM, pause=ASK)  # type: ignore[misc]
    assert client.read_flow_run(theirs).state.name == "Running", "others' heartbeats are none of our business"

    with plain_worker(up):
        for environment in ("dev", "staging"):
            (run,) = runs(client, f"recover/{environment}")
            assert ends(client, run.id).name == "Completed"
    assert {"dev": state(target), "staging": state(staging)} == before
    assert target.execute("SELECT to_regclass('half')").fetchone() == (None,)
    assert target.execute("SELECT count(*) FROM kg_ops.operation WHERE state = 'running'").fetchone() == (0,)
    assert not sleeping(target)
    assert titles(webhook).count("dev: was recovered after a crash") == 1
    assert "staging: was recovered after a crash" not in titles(webhook), "nothing had begun there"
    assert [each.state for each in approvals.waiting(up.settings("staging"))] == ["waiting"]
    done = kg("approve", "staging", "--name", "Grace", "--yes", **up.variables)
    assert "its run no longer waits" in done.stdout, "nobody says that it goes on"


def kill_all(up: Up) -> None:
    """kill -9 of `kg up`, which leaves none of its children: it can mark nothing any more."""
    assert up.process
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.wait()
    until(lambda: not up.pids("flows.cli.") and not up.pids("prefect"), seconds=30)


def titles(webhook: Webhook) -> list[str]:
    return [each["title"] for each in webhook.received]


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> Callable[..., float]:
    """The silence that is put up with, where heartbeats come every `frequency` seconds and KG_SILENCE_SECONDS is so."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.cli.up.crashes import silence

    def seconds(frequency: int, given: str = "") -> float:
        monkeypatch.setenv("KG_SILENCE_SECONDS", given)
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: frequency}):
            return silence().total_seconds()

    return seconds


def test_three_heartbeats_unless_said_otherwise(beats: Callable[..., float]) -> None:
    assert beats(30) == 90
    assert beats(180) == 540
    assert beats(30, "40") == 40


@pytest.mark.parametrize("wrong", ["30", "0", "-5", "40.5", "a minute", "86401", "٤٠"])
def test_a_run_that_lives_is_never_taken_for_silent(beats: Callable[..., float], wrong: str) -> None:
    with pytest.raises(SettingsError, match="KG_SILENCE_SECONDS is ") as failed:
        beats(30, wrong)
    assert "whole number above 30" in (failed.value.hint or "")
