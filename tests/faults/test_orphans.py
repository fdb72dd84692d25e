"""A client that was killed, and its statement that goes on in the server: nobody else begins before it has ended."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tasks.core.errors import OperationRunning
from tasks.core.operations.operation import operation
from tasks.core.postgres.connections import Connection
from tasks.core.settings import CHECKOUT, Settings
from tests.faults.proofs import unfinished
from tests.faults.runs import recovered, variables
from tests.processes import kill, until

# A client on a server that does not look whether its client is there (before 14, or set so).
ORPHANING = """
from tasks.core.operations.operation import operation
from tasks.core.settings import load_settings
with operation(load_settings("dev"), "deploy") as held, held.session("migrate") as conn:
    conn.execute("SET client_connection_check_interval = 0")
    print("at it", flush=True)
    conn.execute("DO $$ BEGIN PERFORM pg_sleep(60); CREATE TABLE late (id int); END $$")
"""


@pytest.fixture
def orphan(ours: Settings, conn: Connection) -> Iterator[None]:
    """A deploy was killed, and its DDL goes on in the server."""
    words = [sys.executable, "-c", ORPHANING]
    child = subprocess.Popen(words, env=variables(ours), stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert child.stdout is not None
    assert child.stdout.readline() == "at it\n"
    until(lambda: sleeping(conn) == 1)
    kill(child)
    yield
    conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kg migrate'")


def sleeping(conn: Connection) -> int:
    row = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    ).fetchone()
    assert row
    return int(row[0])


def test_a_killed_clients_ddl_goes_on_in_the_server_and_keeps_others_out(
    ours: Settings, conn: Connection, orphan: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.core.operations.sessions.PATIENCE_SECONDS", 1.0)
    time.sleep(0.5)
    assert sleeping(conn) == 1  # nobody is there to take its answer
    held = conn.execute("SELECT pg_try_advisory_lock(27495, 1), pg_advisory_unlock(27495, 1)").fetchone()
    assert held == (True, True)  # and the dead run's own lock is free
    for kind in ("deploy", "recover"):
        with pytest.raises(OperationRunning, match="kg migrate") as refused, operation(ours, kind):  # type: ignore[arg-type]
            pass
        assert "kg recover dev --terminate" in (refused.value.hint or "")
    assert sleeping(conn) == 1
    done = recovered(ours, terminate=True)
    assert sleeping(conn) == 0
    assert [dead.kind for dead in done.dead][-1] == "deploy"
    assert conn.execute("SELECT to_regclass('late')").fetchone() == (None,)
    assert unfinished(conn) == 0


def test_terminate_never_ends_a_run_that_is_alive(ours: Settings) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANING], env=variables(ours), stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "at it\n"
        try:
            with pytest.raises(OperationRunning, match="under way on this machine: kg deploy lock"):
                recovered(ours, terminate=True)
            assert child.poll() is None
        finally:
            kill(child)
