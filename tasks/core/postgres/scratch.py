"""Scratch databases: empty, ours for the length of a block, and gone afterwards, also when the process was killed.

By default in a cluster of our own, tuned for speed and not for keeping; with KG_SCRATCH_URL on that server.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg import Error as PostgresError
from psycopg.sql import SQL, Composed, Identifier, Literal

from sql import query
from tasks.core.addresses import Address
from tasks.core.postgres import cluster, containers, places
from tasks.core.postgres.accounts import server_account
from tasks.core.postgres.binaries import Binaries, debian_with_vector, path_with_vector, runnable_by, wheel
from tasks.core.postgres.connections import (
    Connection,
    Server,
    connect,
    database_errors,
    describe,
    vector_extension,
)
from tasks.core.postgres.tools import Tools, tools_for
from tasks.core.progress import note
from tasks.core.settings import Settings

PREFIX = "kg_scratch_"
# Of a copy's cluster: a name that no original has, whose roles are made there with no more rights than they have.
SUPERUSER = "kg_scratch_superuser"
KEEPERS_PATIENCE_SECONDS = 15.0


@dataclass(frozen=True)
class Scratch:
    """An empty database of its own."""

    address: Address
    tools: Tools
    """Clients that read the archives of the server that the database is like, and restore them here."""
    server: Server
    vector: str
    """The pgvector version that can be installed here, "" for none."""
    own: bool
    """True in a cluster of our own: its roles and settings are ours to make."""


@contextmanager
def scratch_database(settings: Settings, *, like: Server) -> Iterator[Scratch]:
    """An empty database for a copy from the server `like`: of its encoding, and its locale where that exists here.

    In a cluster of our own it has the same major as `like` where those programs are at hand with pgvector (the wheel's,
    Debian's, those on the PATH, the image of KG_SCRATCH_IMAGE), else the embedded (newer) one. Raises OpsError.
    """
    if settings.scratch is not None:
        with _kept_database(settings.scratch, like) as address:
            yield _describe(address, settings, like, own=False)
        return
    with private_cluster(settings.home, like.major, SUPERUSER) as maintenance:
        name = _new_name()
        with connect(maintenance, purpose="scratch") as conn, database_errors("making a scratch database"):
            _create(conn, name, like)
        yield _describe(maintenance.database(name), settings, like, own=True)


@contextmanager
def private_cluster(home: Path, major: int | None = None, superuser: str = cluster.SUPERUSER) -> Iterator[Address]:
    """A cluster of this process alone, for its superuser: of that major where it can be had with pgvector, else the
    embedded one. It ends with the block, or with this process.
    """
    binaries = binaries_for(major)
    image = containers.image_for(major) if major and major != binaries.major else ""
    if image:
        # Its /dev/shm is its own, and large enough.
        settings = {**_tuned(), "dynamic_shared_memory_type": "posix"}
        name, address = containers.start(image, superuser, settings)
        try:
            yield address
        finally:
            containers.end(name)
        return
    account = server_account()
    binaries = runnable_by(binaries, account)
    with places.usable(home) as true_home:
        place, users = places.new_scratch_place(true_home, account)
    try:
        cluster.create(place, binaries, account, database="scratch", durable=False, superuser=superuser)
        port = cluster.serve(place, binaries, account, parameters=_tuned(), keep=False)
        yield cluster.address(place, port, "scratch", superuser)
    finally:
        os.close(users)
        cluster.dispose(place)


def binaries_for(major: int | None) -> Binaries:
    """The programs of a scratch cluster for copies from a server of that major."""
    own = wheel()
    if major is None or major == own.major:
        return own
    return debian_with_vector(major) or path_with_vector(major) or own


def _tuned() -> dict[str, str]:
    """Nothing here survives a crash, nor needs to."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20  # MiB
    maintenance = max(64, min(1024, memory // 8))  # an HNSW build that fits is several times quicker
    return {
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "max_wal_size": "4GB",
        "autovacuum": "off",
        "shared_buffers": "64MB",
        "maintenance_work_mem": f"{maintenance}MB",
        "dynamic_shared_memory_type": _shared_memory(maintenance),
    }


def _shared_memory(needed: int) -> str:
    # A parallel index build shares its memory there, and a container's /dev/shm often has 64 MB.
    try:
        return "posix" if shutil.disk_usage("/dev/shm").free > needed * 2**20 else "mmap"  # noqa: S108
    except OSError:
        return "posix"


def _describe(address: Address, settings: Settings, like: Server, *, own: bool) -> Scratch:
    with connect(address, purpose="scratch") as conn:
        server, vector = describe(conn), vector_extension(conn)
    tools = tools_for(max(like.major, server.major), settings.home)
    return Scratch(address, tools, server, vector.available or "", own)


@contextmanager
def _kept_database(maintenance: Address, like: Server) -> Iterator[Address]:
    """A database beside `maintenance`, locked by a session there for as long as the block lasts: the next run drops
    those that nobody locks.
    """
    name = _new_name()
    with connect(maintenance, purpose=keeper_purpose(socket.gethostname(), os.getpid())) as conn:
        with database_errors("making a scratch database"):
            sweep(conn)
            conn.execute(query("lock_scratch"), {"name": name})
            _create(conn, name, like)
        try:
            yield maintenance.database(name)
        finally:
            _drop_or_say(conn, name)


def keeper_purpose(host: str, pid: int) -> str:
    """By which the session that keeps a scratch database is known to belong to that process."""
    return f"scratch keeper {pid} {host}"


def sweep(conn: Connection, dead: Collection[tuple[str, int]] = ()) -> tuple[str, ...]:
    """Drop the scratch databases of KG_SCRATCH_URL's server whose keeper is gone; their names.

    Waits for the keepers of `dead` processes (host, pid): a killed client's CREATE DATABASE goes on in the server.
    """
    names = [f"kg {keeper_purpose(host, pid)}"[:63] for host, pid in dead]
    deadline = time.monotonic() + KEEPERS_PATIENCE_SECONDS
    while conn.execute(query("sessions_named"), {"names": names}).fetchone() and time.monotonic() < deadline:
        time.sleep(0.1)
    pattern = f"^{PREFIX}[0-9a-f]{{12}}$"
    abandoned = tuple(name for (name,) in conn.execute(query("abandoned_scratch"), {"pattern": pattern}).fetchall())
    for name in abandoned:
        _drop(conn, name)
    return abandoned


def _new_name() -> str:
    return PREFIX + secrets.token_hex(6)


def _create(conn: Connection, name: str, like: Server) -> None:
    """CREATE DATABASE with the first locale that this server has: the other's own, UTF-8's, plain C."""
    statement = SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} ")
    choices = (like.collation, "builtin:C.UTF-8", "C")
    for number, collation in enumerate(choices, start=1):
        locale = locale_words(collation, conn.info.server_version // 10000)
        try:
            conn.execute(statement.format(Identifier(name), Literal(like.encoding)) + locale)
        except PostgresError as error:
            # 42501: the role may not, whatever the locale.
            if error.sqlstate == "42501" or number == len(choices):
                raise
        else:
            return


def locale_words(collation: str, major: int) -> Composed:
    """The words of CREATE DATABASE for a locale as `Server.collation` has it."""
    provider, _, name = collation.rpartition(":")
    if provider:
        kind = "icu ICU_LOCALE" if provider == "icu" else "builtin BUILTIN_LOCALE"
        return SQL("LOCALE_PROVIDER " + kind + " {} LC_COLLATE 'C' LC_CTYPE 'C'").format(Literal(name))
    words = SQL("LOCALE_PROVIDER libc LC_COLLATE {0} LC_CTYPE {0}" if major >= 15 else "LC_COLLATE {0} LC_CTYPE {0}")
    return words.format(Literal(name))


def _drop_or_say(conn: Connection, name: str) -> None:
    """Drop a scratch database; a failure must not cover what happened in the block, and the next run tries again."""
    try:
        _drop(conn, name)
    except PostgresError as error:
        note(f"the scratch database {name} is still there, and the next drill drops it: {error}".splitlines()[0])


def _drop(conn: Connection, name: str) -> None:
    force = SQL("WITH (FORCE)" if conn.info.server_version >= 130000 else "")
    conn.execute(query("end_sessions"), {"database": name})
    conn.execute(SQL("DROP DATABASE IF EXISTS {} {}").format(Identifier(name), force))
