"""A PostgreSQL cluster of ours: made by initdb, served by a guardian (guardian.py) for as long as somebody uses it.

It listens on 127.0.0.1 with a password of ours and on no socket: a socket's path may have about 100 bytes, less than
many a checkout's, its folder would have to be open to the server's account, and one address for psql, pg_dump and a
container on the host's network is worth more than the few microseconds of a socket.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from psycopg.pq import PGconn, Ping
from pydantic import SecretStr

from tasks.core import commands
from tasks.core.addresses import Address
from tasks.core.errors import CommandFailed, OpsError
from tasks.core.postgres import guardian, locks
from tasks.core.postgres.accounts import Account, open_owned
from tasks.core.postgres.binaries import Binaries
from tasks.core.postgres.places import Place, remove_unless_used, write_owned

SUPERUSER = "kg"
HOST = "127.0.0.1"

_START_TIMEOUT = 120.0  # seconds; a crashed server first replays what it had not written
_LOG_LIMIT = 2**20  # bytes; a longer log begins anew with the next start
_PORTS_TRIED = 5
_PING_TIMEOUT = 2  # seconds, libpq's smallest
_COMMON = {"listen_addresses": HOST, "unix_socket_directories": "", "timezone": "UTC", "log_timezone": "UTC"}

_guardians: list[subprocess.Popen[bytes]] = []  # kept, so that an ended one is collected and none is warned about


def create(
    place: Place,
    binaries: Binaries,
    account: Account | None,
    *,
    database: str,
    durable: bool,
    superuser: str = SUPERUSER,
) -> None:
    """Make the cluster's data with one empty UTF-8 `database`; it appears whole or not at all.

    `durable` False leaves out checksums and syncing. Raises CommandFailed.
    """
    for stale in place.folder.glob("making.*"):
        shutil.rmtree(stale, ignore_errors=True)
    making = place.folder / f"making.{secrets.token_hex(4)}"
    making.mkdir(mode=0o700)
    password = secrets.token_urlsafe(24)
    try:
        _initdb(making, binaries, account, superuser, password, durable=durable)
        _single_user(making / "data", binaries, account, f'CREATE DATABASE "{database}"')
        if durable:
            _sync(making / "data", binaries, account)
        write_owned(place.password, password)
        (making / "data").rename(place.data)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def address(place: Place, port: int, database: str, superuser: str = SUPERUSER) -> Address:
    """Where the served cluster is, for its superuser."""
    password = SecretStr(place.password.read_text(encoding="utf-8"))
    return Address(host=HOST, port=port, dbname=database, user=superuser, password=password)


def port_served(place: Place) -> int | None:
    """The port of the server that takes connections and has a guardian, None where there is no such (yet, or any more).

    Raises OpsError where it cannot be reached: somebody started it by hand, with settings of their own.
    """
    found = guardian.running(str(place.data))
    if found and found[2] and not guardian.listens(str(place.data)):
        raise OpsError(
            f"a PostgreSQL that was started by hand (process {found[0]}) runs on {place.data} and does not listen on "
            f"{HOST}",
            hint=f"stop it (kill -INT {found[0]}) and run this again, or start it with -c listen_addresses={HOST}",
        )
    return found[1] if found and found[2] and locks.is_held(place.guardian_lock) and _answers(found[1]) else None


def _answers(port: int) -> bool:
    """Whether the server takes connections now. Its pid file goes on saying so while it dies (a kill takes its time to
    arrive) and while it comes back from the crash of a session; so would a connection that is merely accepted.
    """
    words = f"host={HOST} port={port} user={SUPERUSER} dbname=postgres sslmode=disable gssencmode=disable"
    return PGconn.ping(f"{words} connect_timeout={_PING_TIMEOUT}".encode()) == Ping.OK


def serve(
    place: Place, binaries: Binaries, account: Account | None, *, parameters: Mapping[str, str], keep: bool
) -> int:
    """The port of the cluster's server, started or (where it runs) given a guardian anew.

    The caller holds `users.lock` shared, and the lock that keeps other starters away. `keep` False removes the place
    when the last user is gone. Raises OpsError.
    """
    deadline = time.monotonic() + _START_TIMEOUT
    failure = "it does not answer"
    for attempt in range(_PORTS_TRIED):
        while locks.is_held(place.guardian_lock):  # one that is starting, or whose server has just gone
            if port := port_served(place):
                return port
            if time.monotonic() > deadline:
                raise _not_started(place, failure)
            time.sleep(0.01)
        port = _free_port(place, fresh=attempt > 0)
        failure = _launch(place, binaries, account, {**_COMMON, **parameters, "port": str(port)}, keep, deadline)
        if not failure and (served := port_served(place)):
            with suppress(OSError):
                write_owned(place.folder / "port", str(served))
            return served
        if failure and "Address already in use" not in failure and "shared memory block" not in failure:
            break
        time.sleep(0.2 * attempt)  # a killed server's children need a moment to notice
    raise _not_started(place, failure or "it ended as soon as it was there")


def dispose(place: Place) -> None:
    """Wait until the cluster of this process alone is gone, whose users' lock the caller has let go."""
    for process in _guardians:
        if str(place.folder) in process.args:  # type: ignore[operator]  # always a list here
            process.terminate()  # it would notice by itself, a little later
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
    if place.folder.exists():  # there was no guardian, or it was killed
        remove_unless_used(place)
    _guardians[:] = [process for process in _guardians if process.poll() is None]


def _initdb(
    making: Path, binaries: Binaries, account: Account | None, superuser: str, password: str, *, durable: bool
) -> None:
    pwfile = making / "password"
    write_owned(pwfile, password)
    if account:
        account.own(pwfile)
        account.own(making)
    argv: list[str | Path] = [
        *(binaries.folder / "initdb", "-D", making / "data", "-U", superuser, "-E", "UTF8"),
        *("-A", "scram-sha-256", f"--pwfile={pwfile}", "--no-sync", *_locale(binaries.major)),
    ]
    if durable:
        argv.append("--data-checksums")
    elif binaries.major >= 18:
        argv.append("--no-data-checksums")
    commands.run(argv, timeout=120, cwd=Path("/"), user=account.uid if account else None)


def _locale(major: int) -> list[str]:
    # Sorting and case rules that are the same on every machine; 17 brought its own, before that C knows ASCII only.
    if major >= 17:
        return ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--no-locale"]


def _single_user(data: Path, binaries: Binaries, account: Account | None, statement: str) -> None:
    argv: list[str | Path] = [
        binaries.folder / "postgres",
        "--single",
        "-j",
        "-c",
        "exit_on_error=on",
        "-D",
        data,
        "postgres",
    ]
    commands.run(argv, text=f"{statement};\n\n", timeout=60, cwd=Path("/"), user=account.uid if account else None)


def _sync(data: Path, binaries: Binaries, account: Account | None) -> None:
    """Write the new cluster to disk, once: syncing each of its thousand files as it is made takes seconds."""
    argv = [str(binaries.folder / "initdb"), "--sync-only", "-D", str(data)]
    if sys.platform == "linux" and binaries.major >= 17:
        argv.append("--sync-method=syncfs")
    commands.run(argv, timeout=120, cwd=Path("/"), user=account.uid if account else None)


def _launch(
    place: Place,
    binaries: Binaries,
    account: Account | None,
    parameters: Mapping[str, str],
    keep: bool,
    deadline: float,
) -> str:
    """Start a guardian and wait for its word; returns "" or what the server's log says about the failure."""
    os.close(locks.open_lock(place.guardian_lock))
    log = open_owned(place.log, os.O_WRONLY | os.O_APPEND)
    try:
        if os.fstat(log).st_size > _LOG_LIMIT:
            os.ftruncate(log, 0)
        start = os.fstat(log).st_size
        server = [str(binaries.folder / "postgres"), "-D", str(place.data)]
        settings = [word for name, value in parameters.items() for word in ("-c", f"{name}={value}")]
        ids = (str(account.uid), str(account.gid)) if account else ("-1", "-1")
        argv = [sys.executable, "-I", "-S", guardian.__file__, str(place.folder), *ids, "KEEP" if keep else "REMOVE"]
        process = commands.launch([*argv, *server, *settings], log=log)
    finally:
        os.close(log)
    _guardians.append(process)
    if _says_ready(process, deadline):
        return ""
    with suppress(OSError):
        process.terminate()
        process.wait(timeout=10)
    return _complaint(place.log, start)


def _says_ready(process: subprocess.Popen[bytes], deadline: float) -> bool:
    assert process.stdout is not None
    with process.stdout as pipe:
        readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        return bool(readable) and pipe.readline() == b"ready\n"


def _complaint(log: Path, start: int) -> str:
    """What the server said since byte `start` of its log, on one line."""
    try:
        with log.open("rb") as stream:
            stream.seek(start)
            lines = stream.read().decode(errors="replace").splitlines()
    except FileNotFoundError:  # a cluster that removes itself took it along
        return "its log is gone"
    errors = [line.partition(": ")[2].strip() for line in lines if "FATAL:" in line or "Error" in line]
    hindrance = [line.partition(": ")[2].strip() for line in lines if "could not bind" in line]
    return " / ".join([*hindrance, *errors][:2]) or (lines[-1] if lines else "it said nothing")


def _not_started(place: Place, failure: str) -> OpsError:
    return CommandFailed(f"PostgreSQL in {place.folder} did not start: {failure}", hint=f"its log is {place.log}")


def _free_port(place: Place, *, fresh: bool) -> int:
    """The port that this cluster had before if it is free (so that saved addresses go on working), else any."""
    before = 0
    with suppress(OSError, ValueError):
        before = 0 if fresh else int((place.folder / "port").read_text(encoding="utf-8"))
    for port in (before, 0):
        with socket.socket() as probe, suppress(OSError):
            # As the server does: connections that have just ended do not keep the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise OpsError(f"{HOST} has no free port")
