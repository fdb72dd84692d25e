"""pgbouncer in front of a server, as Supabase's poolers are: one that keeps a session, one that does not."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from tasks.core.addresses import Address
from tests.processes import until
from tests.servers.components import program

_CONFIG = """\
[databases]
{dbname} = host={host} port={port} dbname={dbname} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = {mode}
"""


@contextmanager
def pooler(server: Address, mode: Literal["session", "transaction"], client: str | None = None) -> Iterator[Address]:
    """The address of a pooler that enters `server`; `client` is how it calls the user of `server`, where otherwise."""
    assert server.password
    user, password, listen = client or server.user, server.password.get_secret_value(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="kg-pooler-"))
    words = {"host": server.host, "port": server.port, "dbname": server.dbname, "user": server.user}
    (folder / "config").write_text(
        _CONFIG.format(**words, password=password, mode=mode, folder=folder, listen=listen), encoding="utf-8"
    )
    (folder / "users").write_text(f'"{user}" "{password}"\n', encoding="utf-8")
    argv: list[str | Path] = [program("pgbouncer", "pgbouncer"), "-q", folder / "config"]
    if os.geteuid() == 0:  # it refuses to run as root
        argv += ["-u", "nobody"]
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, "nobody")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        until(lambda: _listens(listen), seconds=10)
        yield server.model_copy(update={"port": listen, "user": user, "password": SecretStr(password)})
    finally:
        process.terminate()
        process.wait(timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
