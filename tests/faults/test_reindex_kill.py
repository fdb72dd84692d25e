"""kill -9 of the client and of PostgreSQL while an index is built: the old one serves, and the next run is clean."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.addresses import Address
from tasks.core.operations.operation import operation
from tasks.core.operations.recover import close, settle
from tasks.core.postgres import embedded
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.scratch import private_cluster
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tasks.core.vectors.advice import advise
from tasks.core.vectors.indexes import hnsw_indexes
from tasks.core.vectors.leftovers import find_leftovers
from tasks.core.vectors.reindex import Rebuilt, rebuild
from tests.integration.reindex_fixtures import INDEX, ROWS, deployed
from tests.processes import kill, kill_hard, server_of, until

# A re-index in a process of its own, slow enough to be met at work. KILL_AT names a function of the re-index: at its
# call the process kills itself, as hard as can be.
CLIENT = """
import os, signal, sys
from tasks.core.operations.operation import operation
from tasks.core.settings import load_settings
from tasks.core.vectors import reindex
if place := os.environ.get("KILL_AT"):
    setattr(reindex, place, lambda *arguments, **words: os.kill(os.getpid(), signal.SIGKILL))
with operation(load_settings("dev"), "reindex") as held:
    print("holding", flush=True)
    reindex.rebuild(held, sys.argv[1], 64, 600)
"""


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A database in a cluster of this module's own, whose server may crash."""
    home = tmp_path_factory.mktemp("crashing")
    with private_cluster(home) as address:
        yield deployed(address, home, ROWS)


def client(settings: Settings, **more: str) -> subprocess.Popen[str]:
    env = {**os.environ, "KG_HOME": str(settings.home), **more}
    if settings.address is not None and "EMBEDDED" not in more:
        assert settings.address.password is not None
        where = f"{settings.address.user}@{settings.address.host}:{settings.address.port}/{settings.address.dbname}"
        env |= {
            "SUPABASE_URL": f"postgresql://{where}",
            "SUPABASE_DB_PASSWORD": settings.address.password.get_secret_value(),
        }
    child = subprocess.Popen(
        [sys.executable, "-c", CLIENT, INDEX], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout
    assert child.stdout.readline() == "holding\n"
    return child


def building(address: Address) -> int:
    """The backend that builds an index at this moment and has begun with its rows, 0 for none."""
    with connect(address, purpose="test watch") as conn:
        row = conn.execute(
            "SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE 'building index%%' AND tuples_done > 0"
        ).fetchone()
    return int(row[0]) if row else 0


def until_building(address: Address) -> int:
    found: list[int] = []

    def seen() -> bool:
        found[:] = [building(address)]
        return bool(found[0])

    until(seen, seconds=60)
    return found[0]


def serving(conn: Connection) -> tuple[str, ...]:
    """The indexes of a search's plan, and that it finds what it asks for."""
    with conn.transaction():
        conn.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        wanted = "(SELECT embedding FROM code_embeddings WHERE id = 5)"
        statement = f"SELECT id FROM code_embeddings ORDER BY embedding <=> {wanted} LIMIT 3"
        assert conn.execute(statement.encode()).fetchone() == (5,)
        (plan,) = conn.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode()).fetchone() or (None,)
    return tuple(_ordered(plan[0]["Plan"]))


def _ordered(node: dict[str, object]) -> Iterator[str]:
    if "Order By" in node:
        yield str(node["Index Name"])
    for child in node.get("Plans", ()):  # type: ignore[attr-defined]
        yield from _ordered(child)


def gone(conn: Connection, pid: int) -> bool:
    return conn.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone() == (0,)


def assert_next_run_is_clean(settings: Settings) -> Rebuilt:
    """The next re-index takes the leftovers away, and what is there is right."""
    with operation(settings, "reindex") as held:
        settle(held)
        done = rebuild(held, INDEX)
        close(held)
    assert settings.address is not None
    with connect(settings.address, purpose="test") as conn:
        assert [(one.name, one.valid) for one in hnsw_indexes(conn, settings)] == [(INDEX, True)]
        assert find_leftovers(conn, settings) == ()
        rows = conn.execute("SELECT state FROM kg_ops.operation ORDER BY started_at DESC LIMIT 2").fetchall()
        assert conn.execute("SELECT count(*) FROM code_embeddings").fetchone() == (ROWS,)
    assert rows == [("done",), ("abandoned",)]
    (advice,) = advise(settings)
    assert advice.recall
    assert advice.recall.mean > 0.9
    assert verify(settings).ok
    return done


def test_the_client_is_killed_during_the_build(crashing: Settings) -> None:
    assert crashing.address is not None
    child = client(crashing)
    pid = until_building(crashing.address)
    kill(child)
    with connect(crashing.address, purpose="test") as conn:
        before = conn.execute("SELECT %s::regclass::oid", (INDEX,)).fetchone()
        assert serving(conn) == (INDEX,)
        until(lambda: gone(conn, pid), seconds=20)  # the server notices within a second that nobody listens
        (left,) = find_leftovers(conn, crashing)
        assert left.ours
        assert serving(conn) == (INDEX,)
        assert conn.execute("SELECT %s::regclass::oid", (INDEX,)).fetchone() == before
    assert_next_run_is_clean(crashing)


@pytest.mark.parametrize(
    ("place", "swapped"), [("prove_new", False), ("swap", False), ("_drop_old", True), ("_finish", True)]
)
def test_the_client_is_killed_between_two_steps(crashing: Settings, place: str, swapped: bool) -> None:
    assert crashing.address is not None
    with connect(crashing.address, purpose="test") as conn:
        before = conn.execute("SELECT %s::regclass::oid", (INDEX,)).fetchone()
        child = client(crashing, KILL_AT=place)
        assert child.wait(timeout=120) == -9
        kill(child)
        assert serving(conn) != ()
        assert (conn.execute("SELECT %s::regclass::oid", (INDEX,)).fetchone() != before) == swapped
        assert verify(crashing, probes=False).ok  # also with the parameters that were just swapped in
        left = find_leftovers(conn, crashing)
        assert [one.ours for one in left] == ([] if place == "_finish" else [True])
    assert_next_run_is_clean(crashing)


def test_a_backend_is_killed_and_the_server_recovers(crashing: Settings) -> None:
    """kill -9 of one backend makes PostgreSQL end all sessions and recover from its log."""
    assert crashing.address is not None
    child = client(crashing)
    pid = until_building(crashing.address)
    kill_hard(pid)
    _, said = child.communicate(timeout=60)
    assert child.returncode != 0
    assert "DatabaseError" in said
    until(lambda: answers(crashing.address), seconds=60)
    with connect(crashing.address, purpose="test") as conn:
        assert serving(conn) == (INDEX,)
    assert_next_run_is_clean(crashing)


@pytest.mark.slow
def test_the_whole_server_is_killed_and_started_again() -> None:
    with tempfile.TemporaryDirectory(prefix="kg-test-") as folder:
        home = Path(folder)
        if os.geteuid() == 0:
            home.chmod(0o755)
        settings = deployed(embedded.ensure(home), home, ROWS)
        child = client(settings, EMBEDDED="1")
        assert settings.address is not None
        until_building(settings.address)
        kill_hard(server_of(home / "postgres"))
        child.communicate(timeout=60)
        assert child.returncode != 0
        address = embedded.ensure(home)
        again = settings.model_copy(update={"address": address})
        with connect(address, purpose="test") as conn:
            assert serving(conn) == (INDEX,)
        assert_next_run_is_clean(again)
        kill_hard(server_of(home / "postgres"))  # its guardian goes with it, before the folder does


def answers(address: Address | None) -> bool:
    from tasks.core.errors import ConnectionFailed

    assert address is not None
    try:
        connect(address, purpose="test").close()
    except ConnectionFailed:
        return False
    return True
