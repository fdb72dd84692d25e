"""Memory and workers of the session that builds a copy's indexes, by what its server has."""

from __future__ import annotations

import pytest

from tasks.core.backup import building
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings
from tasks.core.vectors.machine import machine_of

GRAPH = 300 << 20  # bytes


def test_another_server_is_asked_what_it_has(settings: Settings, conn: Connection) -> None:
    """A superuser sees memory, processors and /dev/shm: the graph fits, and workers help."""
    conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
    machine = machine_of(conn)
    if machine.cpus is None or machine.shared_memory is None or machine.shared_memory < GRAPH:
        pytest.skip("the server's machine shows too little of itself")
    found = building.build_options(settings, conn, GRAPH, own=False)
    assert found["maintenance_work_mem"] == f"{GRAPH >> 10}kB"
    assert int(found["max_parallel_maintenance_workers"]) == min(machine.cpus - 1, machine.most_workers, 8)


def test_little_shared_memory_means_no_worker(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain container's 64 MB: a parallel build would end the restore."""
    conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
    monkeypatch.setattr("tasks.core.vectors.machine._shared_memory", lambda conn, readable: 64 << 20)
    assert building.build_options(settings, conn, GRAPH, own=False)["max_parallel_maintenance_workers"] == "0"


def test_who_is_greeted_answers_without_a_pooler(conn: Connection) -> None:
    assert not building.through_pooler(conn)
