"""A `kg up` with its server and worker, for the tests of one file; and what an operator does with its deployments."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect
from tasks.core.settings import CHECKOUT
from tests.processes import free_port, until, using
from tests.terminal import MAIN, clean_environment

SLOW = 240.0  # a deploy takes 15 s on an idle machine


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


def flow_process(up: Up, run: UUID) -> int:
    from flows.cli.up.runs import run_of

    (found,) = {pid for pid in up.pids("prefect") if run_of(pid) == str(run)}
    return found
