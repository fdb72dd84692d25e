"""Settings for the session that builds a copy's indexes: memory for the largest graph, and workers where they are safe.

On a scratch server of our own this machine says what there is; on another server, that server (vectors/machine.py).
There a build gets workers only where /dev/shm was seen to hold it: one that finds too little would end the restore.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sql import query
from tasks.core.backup.manifest import Manifest
from tasks.core.postgres.connections import Connection, database_errors, vector_extension
from tasks.core.settings import Settings
from tasks.core.vectors.machine import machine_of, memory_limit, parallel_is_safe, workers_for
from tasks.core.vectors.memory import build_memory_bytes

_DEFAULT_M = 16
_LEAST_MEMORY = 64 << 20
_USUAL_WORKERS, _MOST_WORKERS = 2, 8


def wanted_memory(conn: Connection, manifest: Manifest) -> int:
    """Bytes that the largest graph of the copy at `conn` takes, with a tenth to spare. Raises DatabaseError."""
    largest = 0
    with database_errors("looking for vector columns"):
        for label, dimensions in conn.execute(query("vector_columns"), {}):
            largest = max(largest, build_memory_bytes(manifest.tables.get(label, 0), max(dimensions, 1), _DEFAULT_M))
    return largest + largest // 10


def build_options(settings: Settings, conn: Connection, wanted: int, *, own: bool) -> dict[str, str]:
    """The settings by name; `own`: a scratch server of ours, on this machine. Raises DatabaseError."""
    version = vector_extension(conn).installed or ""
    memory, workers = _here(wanted, version) if own else _there(settings, conn, wanted, version)
    return {"maintenance_work_mem": f"{memory >> 10}kB", "max_parallel_maintenance_workers": str(workers)}


def through_pooler(conn: Connection) -> bool:
    """Whether another process answers than the one that greeted. Poolers refuse settings in a session's first words, or
    drop them.
    """
    with database_errors("looking who answers"):
        row = conn.execute(query("backend_pid")).fetchone()
    return row is None or row[0] != conn.info.backend_pid


def _here(wanted: int, version: str) -> tuple[int, int]:
    spare = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 2
    memory = max(_LEAST_MEMORY, min(wanted, spare))
    unsafe = bool(version) and not parallel_is_safe(version)
    if unsafe or memory > _shared_memory_free():
        return memory, 0
    # The server's own number is 2, however many cores there are, and it starts no more than 8 of all kinds.
    return memory, max(_USUAL_WORKERS, min(_MOST_WORKERS, len(os.sched_getaffinity(0)) - 1))


def _there(settings: Settings, conn: Connection, wanted: int, version: str) -> tuple[int, int]:
    machine = machine_of(conn)
    memory = max(_LEAST_MEMORY, min(wanted, memory_limit(machine, settings.reindex)[0]))
    seen = machine.available is not None and machine.shared_memory is not None
    return memory, workers_for(machine, version, memory)[0] if seen and version else 0


def _shared_memory_free() -> int:
    # A parallel build takes its memory there; a plain container has 64 MB.
    shared = Path("/dev/shm")  # noqa: S108
    return shutil.disk_usage(shared).free if shared.is_dir() else 0
