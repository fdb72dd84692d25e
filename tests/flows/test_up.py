"""`kg up` for real: one server and worker for this file; runs by deployment, killed in every way, and recovered."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.settings import CHECKOUT
from tests.processes import free_port, is_gone, until, using
from tests.terminal import MAIN, clean_environment, kg

pytestmark = pytest.mark.timeout(600)

SLOW = 240.0  # a deploy takes 15 s on an idle machine
# Long only where the tables really are: neither in the scratch schema nor on the rehearsal's copy.
SLEEPS = """DO $$ BEGIN
    IF current_schema() = 'public' AND current_database() LIKE 'test_%' THEN PERFORM pg_sleep(600); END IF;
END $$;
"""


@dataclass
class Up:
    """A `kg up` and all that it may touch: dev is the database, staging and production are not configured."""

    folder: Path
    database: Address
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None

    @property
    def variables(self) -> dict[str, str]:
        address = self.database
        assert address.password
        return {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "KG_HOME": str(self.folder / "home"),
            "KG_STORE_URL": (self.folder / "store").as_uri(),
            "KG_MIGRATIONS": str(self.folder / "migrations"),
            "KG_ENVIRONMENTS": str(self.folder / "environments"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "SUPABASE_URL": f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}",
            "SUPABASE_DB_PASSWORD": address.password.get_secret_value(),
        }

    @property
    def log(self) -> str:
        return (self.folder / "up.log").read_text()

    def start(self) -> None:
        with (self.folder / "up.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", MAIN, "up", "--port", str(self.port)],
                env=clean_environment(**self.variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.says("kg up: http")

    def says(self, text: str) -> None:
        until(lambda: text in self.log or self.process is None or self.process.poll() is not None, seconds=SLOW)
        assert text in self.log, self.log

    def pids(self, word: str) -> list[int]:
        """Processes with `word` in their command line and this PREFECT_HOME."""
        return using(self.folder / "prefect", word)


@pytest.fixture(scope="module")
def running(postgres: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    name = f"test_up_{secrets.token_hex(3)}"
    with connect(postgres, purpose="test set-up") as conn:
        conn.execute(SQL("CREATE DATABASE {} TEMPLATE template0").format(Identifier(name)))
    made = Up(tmp_path_factory.mktemp("up"), postgres.database(name))
    shutil.copytree(CHECKOUT / "sql" / "migrations", made.folder / "migrations")
    shutil.copytree(CHECKOUT / "deployments" / "environments", made.folder / "environments")
    dev = made.folder / "environments" / "dev.toml"
    # The steps before the migration have tests of their own, and would take most of this file's time.
    dev.write_text(re.sub(r"(?m)^(backup|drill|reindex|prune) = true", r"\1 = false", dev.read_text()))
    made.start()
    try:
        yield made
    finally:
        for word in ("up", "flows.cli.", "prefect.engine"):
            for pid in made.pids(word):
                os.kill(pid, signal.SIGKILL)
        with connect(postgres, purpose="test clean-up") as conn:
            conn.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture
def up(running: Up) -> Up:
    """The same, and running: a test that has ended it leaves it to the next to start it again."""
    if running.process is None or running.process.poll() is not None:
        running.start()
    return running


@pytest.fixture
def client(up: Up) -> Iterator[Any]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{up.port}/api"}), get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def target(up: Up) -> Iterator[Connection]:
    with connect(up.database, purpose="test") as opened:
        yield opened


def begin(client: Any, deployment: str, **parameters: Any) -> UUID:
    found = client.read_deployment_by_name(deployment)
    return UUID(str(client.create_flow_run_from_deployment(found.id, parameters=parameters).id))


def ends(client: Any, run: UUID, seconds: float = SLOW) -> Any:
    """The run's final state."""
    until(lambda: client.read_flow_run(run).state.is_final(), seconds=seconds)
    return client.read_flow_run(run).state


def runs(client: Any, deployment: str) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId

    found = client.read_deployment_by_name(deployment)
    only = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[found.id]))
    return list(client.read_flow_runs(flow_run_filter=only))


def sleeping(conn: Connection) -> bool:
    """The migration is under way."""
    return bool(
        conn.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(600)%'"
            " AND pid <> pg_backend_pid() AND wait_event = 'PgSleep'"
        ).fetchone()
    )


@pytest.fixture
def deploying(up: Up, client: Any, target: Connection) -> Callable[[], UUID]:
    """Starts a deploy of a second revision that never ends; its flow run, when the migration is under way."""
    folder = up.folder / "migrations"
    (folder / "002_sleep.up.sql").write_text("CREATE TABLE half (id int);\n" + SLEEPS)
    (folder / "002_sleep.down.sql").write_text("DROP TABLE half;\n")

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


def flow_process(up: Up, run: UUID) -> int:
    from flows.cli.up.runs import run_of

    (found,) = {pid for pid in up.pids("prefect") if run_of(pid) == str(run)}
    return found


def test_nothing_is_missing_and_the_scheduler_makes_the_runs(up: Up, client: Any) -> None:
    done = kg("up", "--check", PREFECT_API_URL=f"http://127.0.0.1:{up.port}/api", **up.variables)
    assert done.returncode == 0, done.stderr
    assert "staging: left out, STAGING_DB_URL is not set" in done.stderr
    for name in ("backup/dev", "restore-drill/dev", "prune/dev"):
        until(lambda name=name: bool(runs(client, name)), seconds=SLOW)  # type: ignore[misc]
    nightly = min(runs(client, "backup/dev"), key=lambda run: run.expected_start_time)
    assert (nightly.expected_start_time.hour, nightly.expected_start_time.minute) == (2, 15)
    assert runs(client, "prune/dev")[0].parameters == {"environment": "dev", "apply": True}


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
    os.kill(flow_process(up, run), signal.SIGKILL)
    assert ends(client, run).name == "Crashed"
    until(lambda: len(runs(client, "recover/dev")) > before, seconds=30)
    newest = max(runs(client, "recover/dev"), key=lambda each: each.created)
    assert ends(client, newest.id).name == "Completed"
    assert_as_before(target)


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
    until(lambda: len(runs(client, "recover/dev")) > before, seconds=30)
    newest = max(runs(client, "recover/dev"), key=lambda each: each.created)
    assert ends(client, newest.id).name == "Completed"
    assert_as_before(target)


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
