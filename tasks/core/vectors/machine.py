"""What a build may take: memory and workers, from what the server was given and what its machine has.

A superuser (or pg_read_server_files) reads the machine's own figures through the server, wherever that runs. For
another role the server's settings are all there is: effective_cache_size is what its administrator says is there.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

import psycopg
from psycopg.rows import dict_row

from sql import query
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.settings import ReindexSettings

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MB = 2**20
_LEAST_FOR_WORKERS = 32 * _MB  # PostgreSQL gives a build no worker for which there is less


@dataclass(frozen=True)
class Machine:
    """Bytes and numbers; None where the role may not know. `shared_memory` is what /dev/shm has free, None where the
    server does not take it from there or where it cannot be seen.
    """

    available: int | None
    cpus: int | None
    shared_memory: int | None
    maintenance_work_mem: int
    shared_buffers: int
    effective_cache_size: int
    most_workers: int
    """What max_parallel_workers and max_worker_processes leave."""
    max_parallel_maintenance_workers: int


def machine_of(conn: Connection) -> Machine:
    """Raises DatabaseError."""
    with database_errors("reading the server's memory settings"), conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query("server_memory_settings")).fetchone()
    assert row is not None
    readable = row["reads_files"]
    return Machine(
        available=_available(conn) if readable else None,
        cpus=_cpus(conn) if readable else None,
        shared_memory=_shared_memory(conn, readable=readable) if row["shared_memory_type"] == "posix" else None,
        maintenance_work_mem=row["maintenance_work_mem"],
        shared_buffers=row["shared_buffers"],
        effective_cache_size=row["effective_cache_size"],
        most_workers=min(row["max_parallel_workers"], row["max_worker_processes"]),
        max_parallel_maintenance_workers=row["max_parallel_maintenance_workers"],
    )


def memory_limit(machine: Machine, wanted: ReindexSettings) -> tuple[int, str]:
    """Bytes that a build may take at most, and where that comes from."""
    if wanted.maintenance_work_mem_mb is not None:
        return wanted.maintenance_work_mem_mb * _MB, "maintenance_work_mem_mb of the environment"
    if machine.available is not None:
        # Half: the pages of the table and the index pass through the same memory.
        return max(machine.maintenance_work_mem, machine.available // 2), "half of the memory free on its machine"
    quarter = machine.effective_cache_size // 4
    return max(machine.maintenance_work_mem, quarter), "a quarter of effective_cache_size, which its administrator set"


def workers_for(machine: Machine, version: str, memory: int) -> tuple[int, str]:
    """Parallel workers beside the leader, and why so many."""
    if _number(version) < (0, 6):
        return 0, f"none: pgvector {version} knows no parallel build"
    if not parallel_is_safe(version):
        return 0, f"none: parallel builds of pgvector {version} can overflow a buffer (mended in 0.8.2)"
    if machine.shared_memory is not None and machine.shared_memory < memory:
        free = machine.shared_memory // _MB
        return 0, f"none: /dev/shm has {free} MB free, and a parallel build takes all its memory there"
    by_cpu = machine.cpus - 1 if machine.cpus is not None else machine.max_parallel_maintenance_workers
    most = min(by_cpu, machine.most_workers, memory // _LEAST_FOR_WORKERS - 1)
    source = f"{machine.cpus} processors" if machine.cpus is not None else "max_parallel_maintenance_workers"
    return max(0, most), f"by {source}"


def parallel_is_safe(version: str) -> bool:
    """From 0.6.0 to 0.8.1 they can overflow a buffer; before there are none."""
    return _number(version) >= (0, 8, 2)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _read(conn: Connection, path: str) -> str:
    try:
        row = conn.execute(query("read_machine_file"), {"path": path}).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return ""
    except psycopg.errors.InternalError_:  # not a Linux machine, or a path that it does not have
        return ""
    return str(row[0]) if row and row[0] is not None else ""


def _available(conn: Connection) -> int | None:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(conn, "/proc/meminfo"), re.MULTILINE)
    if not found:
        return None
    free = int(found[1]) * 1024
    # A container's own limit is not in /proc.
    limit, used = _read(conn, "/sys/fs/cgroup/memory.max").strip(), _read(conn, "/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        free = min(free, max(0, int(limit) - int(used)))
    return free


def _cpus(conn: Connection) -> int | None:
    count = len(re.findall(r"^processor\s*:", _read(conn, "/proc/cpuinfo"), re.MULTILINE))
    quota, _, period = _read(conn, "/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if count and quota.isdecimal() and period.isdecimal():
        count = min(count, max(1, int(quota) // int(period)))
    return count or None


def _shared_memory(conn: Connection, *, readable: bool) -> int | None:
    """What is free, on this machine; elsewhere a build that finds too little is tried again without. A container's own,
    which may be behind a port of this machine, says its size where it is mounted.
    """
    size = re.search(r" /dev/shm tmpfs \S*\bsize=(\d+)k", _read(conn, "/proc/self/mounts") if readable else "")
    limit = int(size[1]) * 1024 if size else None
    if conn.info.host not in _LOOPBACK:
        return limit
    try:
        free = shutil.disk_usage("/dev/shm").free  # noqa: S108  # the kernel's place for it, not a temporary file of ours
    except OSError:
        return limit
    return min(free, limit) if limit is not None else free
