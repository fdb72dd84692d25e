"""A scratch server in a container: for a major whose programs are not on this machine.

    KG_SCRATCH_IMAGE   for example pgvector/pgvector:pg{major}; {major} becomes the server's. Unset: no containers

Nothing is pulled. The container listens on 127.0.0.1 and goes with the block; that of a killed process goes with the
next one.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from tasks.core import commands
from tasks.core.addresses import Address
from tasks.core.errors import CommandFailed, OpsError
from tasks.core.postgres.connections import connect

LABEL = "kg.scratch"
_SECONDS = 60.0  # for the engine to answer, and for the server inside to begin


def image_for(major: int) -> str:
    """The image that drills of a server of that major may use; empty for none."""
    return os.environ.get("KG_SCRATCH_IMAGE", "").replace("{major}", str(major))


def check_image(image: str) -> None:
    """Raises CommandFailed (CommandMissing) where this machine's engine has not got it."""
    found = _docker("image", "inspect", "--format", "{{.Id}}", image, check=False)
    if found.returncode:
        said = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CommandFailed(
            f"the image {image} of KG_SCRATCH_IMAGE cannot be had: {said}",
            hint=f"docker pull {image}, or leave KG_SCRATCH_IMAGE out, or set KG_SCRATCH_URL",
        )


def start(image: str, superuser: str, parameters: Mapping[str, str]) -> tuple[str, Address]:
    """Its name, for `end`, and its database `scratch`. Raises CommandFailed where it does not begin."""
    check_image(image)
    _sweep()
    name, password = f"kg-scratch-{secrets.token_hex(6)}", secrets.token_hex(16)
    settings = [word for each, value in parameters.items() for word in ("-c", f"{each}={value}")]
    _docker(
        *("run", "--detach", "--pull", "never", "--name", name, "--label", f"{LABEL}={_this_process()}"),
        *("--publish", "127.0.0.1::5432", "--shm-size", "1g", "--env", "POSTGRES_PASSWORD"),
        *("--env", f"POSTGRES_USER={superuser}", "--env", "POSTGRES_DB=scratch", image, *settings),
        env={"POSTGRES_PASSWORD": password},
    )
    try:
        port = int(_docker("port", name, "5432/tcp").stdout.split()[0].rpartition(":")[2])
        address = Address(host="127.0.0.1", port=port, dbname="scratch", user=superuser, password=SecretStr(password))
        _wait_for(address, name)
    except BaseException:
        end(name)
        raise
    return name, address


def end(name: str) -> None:
    """Remove it, and what it held."""
    _docker("rm", "--force", "--volumes", name, check=False)


def _wait_for(address: Address, name: str) -> None:
    """The official image starts its server twice, at first without TCP: who answers over TCP is ready."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            connect(address, purpose="scratch").close()
        except OpsError as error:
            running = _docker("inspect", "--format", "{{.State.Running}}", name, check=False).stdout.strip()
            if running != "true" or time.monotonic() > deadline:
                said = _docker("logs", "--tail", "1", name, check=False)
                why = (said.stderr or said.stdout).strip().splitlines() or [error.message]
                raise CommandFailed(f"the server in container {name} did not begin: {why[-1]}") from error
            time.sleep(0.2)
        else:
            return


def _sweep() -> None:
    """Remove the containers whose process on this machine is no more."""
    words = ("ps", "--all", "--filter", f"label={LABEL}", "--format", f'{{{{.Names}}}} {{{{.Label "{LABEL}"}}}}')
    for line in _docker(*words).stdout.splitlines():
        name, _, keeper = line.partition(" ")
        host, _, process = keeper.partition("/")
        if host == socket.gethostname() and process != _process(process.partition("-")[0]):
            end(name)


def _this_process() -> str:
    return f"{socket.gethostname()}/{_process(str(os.getpid()))}"


def _process(pid: str) -> str:
    """Its id with the time it began, since ids come again; empty where there is none, the id alone without /proc."""
    if not Path("/proc/self").exists():
        return pid
    try:
        return f"{pid}-{Path('/proc', pid, 'stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return ""


def _docker(*words: str, check: bool = True, env: Mapping[str, str] | None = None) -> commands.Completed:
    return commands.run(["docker", *words], timeout=_SECONDS, check=check, env=env)
