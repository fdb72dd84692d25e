"""Settings for the session that builds a copy's indexes: memory for the largest graph, and workers where they are safe.

The server says what its machine has (vectors/machine.py), a scratch server of our own likewise. A build gets workers
only where /dev/shm was seen to hold it: one that finds too little would end the restore.
"""

from __future__ import annotations

from sql import query
from tasks.core.backup.manifest import Manifest
from tasks.core.postgres.connections import Connection, database_errors, vector_extension
from tasks.core.settings import Settings
from tasks.core.vectors.machine import machine_of, memory_limit, workers_for
from tasks.core.vectors.memory import build_memory_bytes

_DEFAULT_M = 16
_LEAST_MEMORY = 64 << 20
# Vectors lie beside their table (TOAST): without them 10,000 rows are a megabyte, which looks too small for workers.
# What is really small is built sooner without.
_SCAN_SIZE = "256kB"


def wanted_memory(conn: Connection, manifest: Manifest) -> int:
    """Bytes that the largest graph of the copy at `conn` takes, with a tenth to spare. Raises DatabaseError."""
    largest = 0
    with database_errors("looking for vector columns"):
        for label, dimensions in conn.execute(query("vector_columns"), {}):
            largest = max(largest, build_memory_bytes(manifest.tables.get(label, 0), max(dimensions, 1), _DEFAULT_M))
    return largest + largest // 10


def build_options(settings: Settings, conn: Connection, wanted: int) -> dict[str, str]:
    """The settings by name, for `wanted` bytes of graph on the server of `conn`. Raises DatabaseError."""
    version, machine = vector_extension(conn).installed or "", machine_of(conn)
    memory = max(_LEAST_MEMORY, min(wanted, memory_limit(machine, settings.reindex)[0]))
    seen = machine.available is not None and machine.shared_memory is not None
    workers = workers_for(machine, version, memory)[0] if seen and version else 0
    return {
        "maintenance_work_mem": f"{memory >> 10}kB",
        "max_parallel_maintenance_workers": str(workers),
        "min_parallel_table_scan_size": _SCAN_SIZE,
    }


def through_pooler(conn: Connection) -> bool:
    """Whether another process answers than the one that greeted. Poolers refuse settings in a session's first words, or
    drop them.
    """
    with database_errors("looking who answers"):
        row = conn.execute(query("backend_pid")).fetchone()
    return row is None or row[0] != conn.info.backend_pid
