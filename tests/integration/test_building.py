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
    found = building.build_options(settings, conn, GRAPH)
    assert found["maintenance_work_mem"] == f"{GRAPH >> 10}kB"
    assert int(found["max_parallel_maintenance_workers"]) == min(machine.cpus - 1, machine.most_workers, 8)


def test_a_build_of_vectors_gets_its_workers(settings: Settings, conn: Connection) -> None:
    """10,000 vectors, of which the table itself has a megabyte: PostgreSQL alone gives it none."""
    conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
    options = building.build_options(settings, conn, GRAPH)
    if options["max_parallel_maintenance_workers"] == "0":
        pytest.skip("the server's machine shows too little of itself, or has one processor")
    conn.execute(
        "CREATE TABLE looked_at AS SELECT n AS id, repeat('x', 90) AS text FROM generate_series(1, 10000) AS n"
    )
    assert workers_of(conn) == 0
    for name, value in options.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, value))
    assert workers_of(conn) > 0


def workers_of(conn: Connection) -> int:
    """How many a parallel build of an index on looked_at starts, as the server says when it is told to say much."""
    said: list[str] = []
    conn.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
    conn.execute("SET client_min_messages = debug1")
    conn.execute("CREATE INDEX looked_at_idx ON looked_at (id)")
    conn.execute("RESET client_min_messages")
    conn.execute("DROP INDEX looked_at_idx")
    [found] = [line for line in said if 'building index "looked_at_idx"' in line]
    return int(found.partition("request for ")[2].partition(" ")[0] or 0)


def test_little_shared_memory_means_no_worker(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain container's 64 MB: a parallel build would end the restore."""
    conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
    monkeypatch.setattr("tasks.core.vectors.machine._shared_memory", lambda conn, readable: 64 << 20)
    assert building.build_options(settings, conn, GRAPH)["max_parallel_maintenance_workers"] == "0"


def test_who_is_greeted_answers_without_a_pooler(conn: Connection) -> None:
    assert not building.through_pooler(conn)
