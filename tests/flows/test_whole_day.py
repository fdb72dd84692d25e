"""A day on an empty machine, from `kg up` to its end: nights by schedule, staging, production approved and held for its
window, a verification that fails, a worker killed with its flow. One server, one worker, two databases; people are told
at a local webhook. The tests go on from each other's state, in their order.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import pytest

from tasks.core.addresses import Address
from tasks.core.backup.library import backups
from tasks.core.postgres.connections import Connection, connect
from tasks.core.release import approvals
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.store.base import open_store
from tests.core.test_notices import Webhook, listening
from tests.flows.asking import release_of
from tests.flows.bed import (
    SLEEPS,
    SLOW,
    Up,
    begin,
    client,
    ends,
    flow_process,
    production,
    runs,
    sleeping,
    staging,
    up,
    up_bed,
)
from tests.processes import until
from tests.terminal import kg

__all__ = ["client", "production", "staging", "up"]

pytestmark = pytest.mark.timeout(900)  # some two minutes on a quiet machine

NOTICE = timedelta(seconds=2)
AHEAD = timedelta(seconds=45)  # until the window opens: more than it takes to approve on a busy machine


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    """Where people are told, and which the nightly calls when it went well."""
    with listening() as hook:
        yield hook


@contextmanager
def application(database: Address) -> Iterator[str]:
    """Where an application says how it is: ill as soon as a table has a column that it does not know."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with connect(database, purpose="application") as conn:
                found = conn.execute("SELECT 1 FROM pg_attribute WHERE attname = 'reviewed'").fetchone()
            self.send_response(503 if found else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/health"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def running(postgres: Address, webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    hook = {
        "KG_NOTIFY_URLS": f"json://{webhook.address}/people",
        "KG_HEARTBEAT_URL": f"http://{webhook.address}/alive/{{environment}}",
    }
    folder = tmp_path_factory.mktemp("day")
    with (
        up_bed(postgres, folder, "staging", "production", **hook) as made,
        application(made.databases["staging"]) as health,
    ):
        for environment in made.databases:
            made.edit(environment, r'^duration = "PT\w+"', 'duration = "PT1S"')  # of the watch
        made.edit("staging", '^health_url = ""', f'health_url = "{health}"\nhealth_attempts = 1')
        made.edit("production", '^notice = "PT30M"', f'notice = "PT{NOTICE.seconds}S"\npoll = "PT1S"')
        with (folder / "environments" / "production.toml").open("a") as file:
            file.write('\n[[windows]]\nrrule = "DTSTART:..."\nduration = "PT2H"\n')
        move_window(made, datetime.now(UTC) + timedelta(hours=6))
        made.start()
        yield made


def move_window(up: Up, opens: datetime) -> None:
    """production's, which is open two hours of each day."""
    up.edit("production", "^rrule = .*", rf'rrule = "DTSTART:{opens:%Y%m%dT%H%M%S}\\nRRULE:FREQ=DAILY"')


def titles(webhook: Webhook) -> list[str]:
    return [each["title"] for each in webhook.received]


def is_told(webhook: Webhook, title: str, *words: str) -> None:
    """People got a message of that title with these words; it may come some time after what it tells of."""

    def there() -> bool:
        texts = [each["message"] for each in webhook.received if each["title"] == title]
        return any(all(word in text for word in words) for text in texts)

    until(there, seconds=30)


def state(conn: Connection) -> tuple[object, ...]:
    return fingerprint(read_catalog(conn, "public")), [each.revision for each in ledger.entries(conn)]


def test_the_scheduler_makes_the_nights_to_come(up: Up, client: Any) -> None:
    for environment in up.databases:
        for name, hour, minute in (("backup", 2, 15), ("restore-drill", 6, 30), ("prune", 5, 45)):
            deployment = f"{name}/{environment}"
            until(lambda deployment=deployment: bool(runs(client, deployment)), seconds=SLOW)  # type: ignore[misc]
            last = max(runs(client, deployment), key=lambda run: run.expected_start_time)
            assert last.auto_scheduled
            assert last.state.is_scheduled()
            assert last.expected_start_time > datetime.now(UTC)
            assert (last.expected_start_time.hour, last.expected_start_time.minute) == (hour, minute)


def test_staging_is_deployed(up: Up, client: Any, staging: Connection, webhook: Webhook) -> None:
    assert ends(client, begin(client, "deploy/staging")).name == "Completed"
    (entry,) = ledger.entries(staging)
    assert (entry.revision, entry.verified_at is not None) == ("001", True)
    assert staging.execute("SELECT to_regclass('code_embeddings') IS NOT NULL").fetchone() == (True,)
    is_told(webhook, "staging: deploy succeeded", "It is at revision 001, verified.")


def test_a_nightly_runs_by_its_schedule(up: Up, client: Any, staging: Connection, webhook: Webhook) -> None:
    """One more schedule beside prefect.yaml's, which is due: the scheduler makes the run, the worker takes it."""
    from prefect.client.schemas.schedules import IntervalSchedule

    found = client.read_deployment_by_name("backup/staging")
    before = {run.id for run in runs(client, "backup/staging")}
    soon = IntervalSchedule(interval=timedelta(seconds=30), anchor_date=datetime.now(UTC) + timedelta(seconds=5))
    (made,) = client.create_deployment_schedules(found.id, [(soon, True)])

    def begun() -> list[Any]:
        now = [run for run in runs(client, "backup/staging") if run.id not in before]
        return [run for run in now if run.state.is_running() or run.state.is_final()]

    until(lambda: bool(begun()), seconds=SLOW)
    client.delete_deployment_schedule(found.id, made.id)
    nightly = begun()[0]
    assert nightly.auto_scheduled
    assert ends(client, nightly.id).name == "Completed"
    newest = max(backups(open_store(up.settings("staging")), "staging"), key=lambda each: each.id)
    assert (newest.proved, newest.manifest.revision) == (True, "001")
    is_told(webhook, "staging: backup succeeded", newest.id)
    until(lambda: "/alive/staging" in webhook.paths, seconds=30)


def test_production_is_approved_then_held_and_picked_up_in_its_window(
    up: Up, client: Any, production: Connection, webhook: Webhook
) -> None:
    """The window is hours away when people are asked, then moved to some seconds ahead: the run that was approved ends,
    and a run that it has scheduled is executed by the worker when it is due.
    """
    first = begin(client, "deploy/production", started_by="Ada")
    until(lambda: client.read_flow_run(first).state.is_paused() or client.read_flow_run(first).state.is_final(),
          seconds=SLOW)  # fmt: skip
    (plan,) = approvals.waiting(up.settings("production"))
    assert (plan.flow_run, plan.state) == (str(first), "waiting")
    is_told(webhook, "production: deploy waits for an approval", "A deploy that Ada has started waits for 1 approval")

    opens = datetime.now(UTC).replace(microsecond=0) + AHEAD
    move_window(up, opens)
    done = kg("approve", "production", "--name", "Grace", "--note", "seen on staging", "--yes", **up.variables)
    assert done.returncode == 0, done.stderr
    assert ends(client, first).name == "Completed"
    (held,) = [run for run in runs(client, "deploy/production") if run.id != first]
    assert held.expected_start_time == opens - NOTICE
    assert min(client.read_flow_run_states(held.id), key=lambda each: each.timestamp).name == "Scheduled"
    assert held.parameters["plan"] == plan.hash
    is_told(webhook, "production: deploy is scheduled", f"{opens:%Y-%m-%d %H:%M}")

    assert ends(client, held.id).name == "Completed"
    # Prefect rounds the wait for the scheduled time to whole seconds.
    assert client.read_flow_run(held.id).start_time >= opens - NOTICE - timedelta(seconds=0.5)
    (entry,) = ledger.entries(production)
    assert (entry.revision, entry.verified_at is not None) == ("001", True)
    assert opens <= entry.applied_at < opens + timedelta(hours=2)
    release = release_of(production)
    assert [(each["name"], each["note"]) for each in release["approved"]] == [("Grace", "seen on staging")]
    assert (release["started_by"], release["plan"]) == ("Ada", plan.hash)
    assert f"{opens:%Y-%m-%d %H:%M}" in release["window"]
    is_told(webhook, "production: its window opens soon", f"The window {opens:%Y-%m-%d %H:%M}", plan.hash)
    is_told(webhook, "production: deploy succeeded", "It is at revision 001, verified.")


def test_a_verification_that_fails_is_rolled_back_and_told(
    up: Up, client: Any, staging: Connection, webhook: Webhook
) -> None:
    """The migration is sound; the application that runs beside it is not well with it."""
    before = state(staging)
    up.migration(
        "002_review_patterns",
        "ALTER TABLE code_patterns ADD COLUMN reviewed boolean;\n",
        "ALTER TABLE code_patterns DROP COLUMN reviewed;\n",
    )
    run = begin(client, "deploy/staging")
    ended = ends(client, run)
    assert ended.name == "Failed"
    assert "answers 503, not 200" in ended.message
    (rollback,) = subflows(client, run)
    assert (rollback.name, rollback.state.name) == ("rollback staging auto", "Completed")
    assert state(staging) == before
    history = [(entry.revision, entry.state) for entry in ledger.history(staging)]
    assert history == [("001", "applied"), ("002", "reverted")]
    is_told(webhook, "staging: deploy FAILED", "answers 503", "Its changes were rolled back.")
    is_told(webhook, "staging: was rolled back", "it is at revision 001 now")


def subflows(client: Any, parent: UUID) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    only = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]))
    return list(client.read_flow_runs(flow_run_filter=only))


def test_worker_and_flow_killed_in_the_middle_are_recovered(
    up: Up, client: Any, staging: Connection, webhook: Webhook
) -> None:
    before = state(staging)
    up.migration("002_sleep", "CREATE TABLE half (id int);\n" + SLEEPS, "DROP TABLE half;\n")
    run = begin(client, "deploy/staging")
    until(lambda: sleeping(staging) or client.read_flow_run(run).state.is_final(), seconds=SLOW)
    assert client.read_flow_run(run).state.name == "Running", client.read_flow_run(run).state
    time.sleep(2)  # `kg up` looks every second
    for pid in (*up.pids("flows.cli.up.worker"), flow_process(up, run)):
        os.kill(pid, signal.SIGKILL)
    assert ends(client, run).name == "Crashed"
    until(lambda: bool(runs(client, "recover/staging")), seconds=SLOW)  # the automation's
    assert ends(client, runs(client, "recover/staging")[0].id).name == "Completed"
    assert state(staging) == before
    assert staging.execute("SELECT to_regclass('half')").fetchone() == (None,)
    is_told(webhook, "staging: was recovered after a crash", "a deploy of", "It is at revision 001 now.")
    assert runs(client, "recover/production") == [], "the neighbour's crash is none of its business"


def test_the_day_ends_in_order_and_nothing_is_left(
    up: Up, staging: Connection, production: Connection, webhook: Webhook
) -> None:
    assert up.process
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(timeout=SLOW) == 0, up.log
    assert up.log.endswith("kg up: stopped\n")
    assert up.pids("flows.cli.") == up.pids("prefect") == []
    for conn in (staging, production):
        open_ones = conn.execute("SELECT count(*) FROM kg_ops.operation WHERE state = 'running'").fetchone()
        assert open_ones == (0,)
        assert conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
        schemas = conn.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'kg\\_%'").fetchall()
        assert schemas == [("kg_ops",)]
    sessions = staging.execute(
        "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'kg %'"
        " AND application_name NOT IN ('kg test', 'kg application')"
    ).fetchall()
    assert sessions == []
    scratch = staging.execute("SELECT datname FROM pg_database WHERE datname LIKE 'kg\\_%'").fetchall()
    assert scratch == []
    assert not [title for title in titles(webhook) if "worker is online" in title], "one was there all day"
