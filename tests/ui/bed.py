"""What `kg up` starts, as an operator has it: a Prefect server with its UI, all deployments, a worker."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tasks.core.settings import CHECKOUT
from tests.processes import free_port

START_SECONDS = 180
RUN_SECONDS = 240  # some 5 s on a quiet machine
STOP_SECONDS = 20


@dataclass
class Bed:
    """`url` is the UI's; `folder` has what `kg up` said."""

    url: str
    folder: Path

    def api(self, path: str, body: object = None, method: str = "POST") -> Any:
        """One call of the server's API: POST of `body`, or what `method` says. A busy SQLite answers 503, as to all."""
        for _ in range(5):
            answer = httpx.request(method, f"{self.url}/api{path}", json=body, timeout=120)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(2)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> str:
        """The id of `flow/environment`."""
        return str(self.api(f"/deployments/name/{name}", method="GET")["id"])

    def start_run(self, deployment: str, **parameters: object) -> str:
        """The id of a new run of `flow/environment`."""
        made = self.api(f"/deployments/{self.deployment(deployment)}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def runs(self, deployment: str) -> list[str]:
        """Ids of the deployment's runs."""
        only = {"deployments": {"id": {"any_": [self.deployment(deployment)]}}}
        return [run["id"] for run in self.api("/flow_runs/filter", only)]

    def run_now(self, deployment: str) -> str:
        """The next run that the scheduler has made of it, at once instead of at its hour; its id."""
        only = {"deployments": {"id": {"any_": [self.deployment(deployment)]}}, "sort": "EXPECTED_START_TIME_ASC"}
        run = next(run for run in self.api("/flow_runs/filter", only) if run["auto_scheduled"])
        now = {"type": "SCHEDULED", "state_details": {"scheduled_time": datetime.now(UTC).isoformat()}}
        self.api(f"/flow_runs/{run['id']}/set_state", {"state": now, "force": True})
        return str(run["id"])

    def ended(self, run: str, *, seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """The run when it has come to an end."""
        return self.reached(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED", seconds=seconds)

    def reached(self, run: str, *types: str, seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """The run when its state is of one of these types."""
        deadline = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = self.api(f"/flow_runs/{run}", method="GET")
            if found["state"] and found["state"]["type"] in types:
                return found
            assert time.monotonic() < deadline, f"{found['name']} is {found['state']} after {seconds} s"
            time.sleep(0.2)

    def said(self) -> str:
        return (self.folder / "kg-up.log").read_text(errors="replace")[-4000:]


@contextmanager
def prefect_bed(folder: Path, variables: Mapping[str, str]) -> Iterator[Bed]:
    """`kg up` on a free port; `variables` name databases, store and settings."""
    port = free_port()
    ours = {**variables, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1", "NO_COLOR": "1"}
    ours.pop("PREFECT_API_URL", None)  # of a server that another test has
    command = [sys.executable, "-P", "-c", "from flows.cli import main; main()", "up", "--port", str(port)]
    with (folder / "kg-up.log").open("wb") as log:
        child = subprocess.Popen(command, cwd=CHECKOUT, env=ours, stdout=log, stderr=log, start_new_session=True)
    bed = Bed(f"http://127.0.0.1:{port}", folder)
    try:
        _wait_for(bed, child)
        yield bed
    finally:
        _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """In order; a test that failed may have left a run in progress, which the second signal ends."""
    for _ in range(2):
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=STOP_SECONDS)
            return
    child.kill()
    child.wait()


def _wait_for(bed: Bed, child: subprocess.Popen[bytes]) -> None:
    """Until its last line before it works, which names the UI's address."""
    deadline = time.monotonic() + START_SECONDS
    while f"kg up: {bed.url}" not in bed.said():
        assert child.poll() is None, bed.said()
        assert time.monotonic() < deadline, f"kg up did not start: {bed.said()}"
        time.sleep(0.2)
