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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect
from tasks.core.settings import CHECKOUT, VARIABLES, Settings, environment_named, load_settings
from tests.databases import new_database
from tests.processes import free_port, until, using
from tests.terminal import MAIN, clean_environment

SLOW = 240.0  # a deploy takes 15 s on an idle machine
ASK = 0.2  # a server that is asked all the time has less left for the runs


# Long only where the tables really are: neither in the scratch schema nor on the rehearsal's copy.
SLEEPS = """DO $$ BEGIN
    IF current_schema() = 'public' AND current_database() LIKE 'test_%' THEN PERFORM pg_sleep(600); END IF;
END $$;
"""


@dataclass
class Up:
    """A `kg up` and all that it may touch: a database for each of its environments, the others are not configured.

    `more` are further variables of it, `words` of its command line; `port` is its server's, or that of the one at their
    PREFECT_API_URL.
    """

    folder: Path
    databases: dict[str, Address]
    more: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    words: tuple[str, ...] = ()

    @property
    def database(self) -> Address:
        """dev's."""
        return self.databases["dev"]

    @property
    def variables(self) -> dict[str, str]:
        found = {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "KG_HOME": str(self.folder / "home"),
            "KG_STORE_URL": (self.folder / "store").as_uri(),
            "KG_MIGRATIONS": str(self.folder / "migrations"),
            "KG_ENVIRONMENTS": str(self.folder / "environments"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        for environment, address in self.databases.items():
            url, password = VARIABLES[environment_named(environment)]
            assert address.password
            found[url] = f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}"
            found[password] = address.password.get_secret_value()
        return {**found, **self.more}

    @property
    def log(self) -> str:
        return (self.folder / "up.log").read_text()

    def settings(self, environment: str) -> Settings:
        return load_settings(environment, self.variables)

    def edit(self, environment: str, pattern: str, replacement: str) -> None:
        """Each place of the environment's TOML that has `pattern`, which is there."""
        file = self.folder / "environments" / f"{environment}.toml"
        text, found = re.subn(pattern, replacement, file.read_text(), flags=re.MULTILINE)
        assert found, f"{environment}.toml has no {pattern}"
        file.write_text(text)

    def migration(self, name: str, up: str, down: str) -> None:
        """A pending revision, like 002_sleep; whatever else of that number there was is gone."""
        folder = self.folder / "migrations"
        for old in folder.glob(f"{name[:3]}_*"):
            old.unlink()
        (folder / f"{name}.up.sql").write_text(up)
        (folder / f"{name}.down.sql").write_text(down)

    def start(self) -> None:
        with (self.folder / "up.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", MAIN, "up", "--port", str(self.port), *self.words],
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

    def kill(self) -> None:
        for word in ("up", "flows.cli.", "prefect"):
            for pid in self.pids(word):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def up_bed(postgres: Address, folder: Path, *environments: str, **more: str) -> Iterator[Up]:
    """An empty database for each environment and copies of the real files; nothing is started yet."""
    with ExitStack() as stack:
        names = {environment: f"test_up_{environment}_{secrets.token_hex(3)}" for environment in environments}
        databases = {each: stack.enter_context(new_database(postgres, name)) for each, name in names.items()}
        shutil.copytree(CHECKOUT / "sql" / "migrations", folder / "migrations")
        shutil.copytree(CHECKOUT / "deployments" / "environments", folder / "environments")
        made = Up(folder, databases, more)
        stack.callback(made.kill)
        yield made


@pytest.fixture(scope="module")
def running(postgres: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up_bed(postgres, tmp_path_factory.mktemp("up"), "dev") as made:
        # The steps before the migration have tests of their own, and would take most of this file's time.
        made.edit("dev", r"^(backup|drill|reindex|prune) = true", r"\1 = false")
        made.start()
        yield made


@pytest.fixture
def up(running: Up) -> Up:
    """The same, and running: a test that has ended it leaves it to the next to start it again."""
    if running.process is None or running.process.poll() is not None:
        running.start()
    return running


@pytest.fixture
def client(up: Up) -> Iterator[Any]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    there = {
        PREFECT_API_URL: f"http://127.0.0.1:{up.port}/api",
        PREFECT_API_AUTH_STRING: up.more.get("PREFECT_API_AUTH_STRING"),
    }
    with temporary_settings(there), get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def target(up: Up) -> Iterator[Connection]:
    with connect(up.database, purpose="test") as opened:
        yield opened


@pytest.fixture
def staging(up: Up) -> Iterator[Connection]:
    with connect(up.databases["staging"], purpose="test") as opened:
        yield opened


@pytest.fixture
def production(up: Up) -> Iterator[Connection]:
    with connect(up.databases["production"], purpose="test") as opened:
        yield opened


def begin(client: Any, deployment: str, **parameters: Any) -> UUID:
    found = client.read_deployment_by_name(deployment)
    return UUID(str(client.create_flow_run_from_deployment(found.id, parameters=parameters).id))


def ends(client: Any, run: UUID, seconds: float = SLOW) -> Any:
    """The run's final state."""
    until(lambda: client.read_flow_run(run).state.is_final(), seconds=seconds, pause=ASK)
    return client.read_flow_run(run).state


def runs(client: Any, deployment: str) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId

    found = client.read_deployment_by_name(deployment)
    only = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[found.id]))
    return list(client.read_flow_runs(flow_run_filter=only))


def sleeping(conn: Connection) -> bool:
    """The migration of SLEEPS is under way."""
    return bool(
        conn.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(600)%'"
            " AND pid <> pg_backend_pid() AND wait_event = 'PgSleep'"
        ).fetchone()
    )


def flow_process(up: Up, run: UUID) -> int:
    from flows.cli.up.runs import run_of

    (found,) = {pid for pid in up.pids("prefect") if run_of(pid) == str(run)}
    return found
