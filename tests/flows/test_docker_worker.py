"""The Docker section of deployments/README.md, line by line: a Prefect server of one's own, `prefect deploy --all`, and
the image of deployments/docker/Dockerfile as its only worker, with the database and a bucket on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import pytest

from tasks.core.backup.library import backups
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings
from tasks.core.store.base import open_store
from tests.docker.project import build_image, engine, worker
from tests.flows.own_server import prefect, prefect_env, prefect_server
from tests.processes import until
from tests.s3 import s3_variables
from tests.seaweed import seaweed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HOST = "kg-worker"
RUN_SECONDS = 300.0  # some 20 s on a quiet machine


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An engine that has the image."""
    found = engine()
    build_image(found, tmp_path_factory.mktemp("image"))
    return found


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    """Of a server that has the work pool and all deployments."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        prefect_server(tmp_path / "prefect") as url,
        temporary_settings({PREFECT_API_URL: url}),
        get_client(sync_client=True) as made,
    ):
        own = {"PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path / "prefect")}
        prefect("work-pool", "create", "kg", "--type", "process", **own)
        prefect("--no-prompt", "deploy", "--all", **own)
        yield made


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "weed").mkdir()
    with seaweed(tmp_path / "weed") as endpoint:
        for variable, value in s3_variables(endpoint).items():
            monkeypatch.setenv(variable, value)
        boto3.Session().client("s3").create_bucket(Bucket="kg-docker")
        yield "s3://kg-docker/kg"


def test_a_worker_in_a_container_deploys_and_backs_up(
    docker: Any, client: Any, bucket: str, variables: dict[str, str], settings: Settings, conn: Connection
) -> None:
    secrets = {name: value for name, value in variables.items() if name.startswith("SUPABASE_")}
    secrets |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    own = {**prefect_env(), **secrets, "KG_STORE_URL": bucket, "PREFECT_API_URL": str(client.api_url)}
    with worker(docker, HOST, own) as container:
        for deployment in ("deploy/dev", "backup/dev"):
            found = client.read_deployment_by_name(deployment)
            run = UUID(str(client.create_flow_run_from_deployment(found.id).id))
            until(lambda run=run: client.read_flow_run(run).state.is_final(), seconds=RUN_SECONDS)  # type: ignore[misc]
            state = client.read_flow_run(run).state
            assert state.name == "Completed", f"{deployment}: {state.message}\n{container.logs(tail=60).decode()}"
    assert conn.execute("SELECT revision, state FROM kg_ops.ledger").fetchall() == [("001", "applied")]
    done = conn.execute("SELECT kind, host, state FROM kg_ops.operation WHERE kind = 'deploy'").fetchall()
    assert done == [("deploy", HOST, "done")]
    made = backups(open_store(settings.model_copy(update={"store_url": bucket})), "dev")
    assert sorted((each.manifest.revision, each.proved) for each in made) == [("", True), ("001", True)]
