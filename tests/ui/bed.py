"""A Prefect server with its UI, a process worker and the deployments of prefect.yaml, as an operator has them."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tasks.core.settings import CHECKOUT
from tests.processes import free_port

START_SECONDS = 120
_PREFECT = str(Path(sys.executable).parent / "prefect")


@dataclass
class Bed:
    """`url` is the UI's; `variables` what the worker and its flows see."""

    url: str
    folder: Path
    variables: dict[str, str]
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def api(self, path: str, body: object = None, method: str = "POST") -> Any:
        """One call of the server's API: POST of `body`, or what `method` says."""
        answer = httpx.request(method, f"{self.url}/api{path}", json=body, timeout=30)
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

    def ended(self, run: str, *, seconds: float = 90) -> dict[str, Any]:
        """The run when it has come to an end."""
        return self.reached(run, "COMPLETED", "FAILED", "CRASHED", "CANCELLED", seconds=seconds)

    def reached(self, run: str, *types: str, seconds: float = 90) -> dict[str, Any]:
        """The run when its state is of one of these types."""
        deadline = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = self.api(f"/flow_runs/{run}", method="GET")
            if found["state"] and found["state"]["type"] in types:
                return found
            assert time.monotonic() < deadline, f"{found['name']} is {found['state']} after {seconds} s"
            time.sleep(0.2)

    def start(self, name: str, *words: str) -> None:
        """A child of our own, in a session of its own so that a kill reaches what it has started."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                [_PREFECT, *words], cwd=CHECKOUT, env=self.variables, stdout=log, stderr=log, start_new_session=True
            )

    def start_worker(self) -> None:
        self.start("worker", "worker", "start", "--pool", "kg", "--name", "kg-worker")

    def run(self, *words: str) -> None:
        done = subprocess.run(
            [_PREFECT, "--no-prompt", *words], cwd=CHECKOUT, env=self.variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def finish(self) -> None:
        """The worker first: without its server it would hang."""
        for child in reversed(self.children.values()):
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)
            child.kill()
            child.wait()


@contextmanager
def prefect_bed(folder: Path, variables: Mapping[str, str]) -> Iterator[Bed]:
    """All of it, on a free port; `variables` name databases, store and settings."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    ours = {
        **variables,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_UI_URL": url,
        "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
    }
    bed = Bed(url, folder, ours)
    try:
        bed.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        _wait_for(bed)
        bed.run("work-pool", "create", "kg", "--type", "process")
        bed.run("deploy", "--all")
        bed.start_worker()
        yield bed
    finally:
        bed.finish()


def _wait_for(bed: Bed) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{bed.url}/api/health", timeout=5).close()
            return
        except OSError:
            log = bed.folder / "server.log"
            assert bed.children["server"].poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, "the Prefect server did not start"
            time.sleep(0.2)
