"""A Prefect server of one's own, as deployments/README.md starts it: no `kg up` keeps it, and none ends it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tasks.core.settings import CHECKOUT
from tests.processes import free_port, until
from tests.terminal import clean_environment

PREFECT = str(Path(sys.executable).parent / "prefect")


def prefect_env() -> dict[str, str]:
    """deployments/prefect.env, as `docker run --env-file` reads it."""
    lines = (CHECKOUT / "deployments" / "prefect.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def prefect(*words: str, **variables: str) -> None:
    done = subprocess.run(
        [PREFECT, *words], cwd=CHECKOUT, env=clean_environment(**variables), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prefect_server(home: Path, **variables: str) -> Iterator[str]:
    """Its API's address, when it answers."""
    home.mkdir()
    port = free_port()
    own = clean_environment(**prefect_env(), **variables, PREFECT_HOME=str(home))
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [PREFECT, "server", "start", "--no-ui", "--port", str(port)],
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}/api"
    try:
        until(lambda: server.poll() is not None or _answers(url), seconds=120, pause=0.1)
        assert server.poll() is None, (home / "server.log").read_text()
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health", timeout=10).status_code == httpx.codes.OK
    return False
