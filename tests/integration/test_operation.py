"""One operation a database: who holds the lock, who may commit, and what the journal says afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from uuid import uuid4

import pytest

from sql import query
from tasks.core.errors import DatabaseError, OperationRunning
from tasks.core.operations import journal
from tasks.core.operations.operation import current, operation
from tasks.core.postgres.connections import Connection, connect
from tasks.core.settings import Settings
from tests.processes import until


def states(conn: Connection) -> list[tuple[str, str]]:
    return conn.execute("SELECT kind, state FROM kg_ops.operation ORDER BY started_at").fetchall()  # type: ignore[return-value]


def held_locks(conn: Connection) -> int:
    row = conn.execute(
        "SELECT count(*) FROM pg_locks JOIN pg_database AS own ON own.oid = database"
        " WHERE locktype = 'advisory' AND classid = 27495 AND datname = current_database()"
    ).fetchone()
    assert row
    return int(row[0])


def test_the_journal_tells_each_step_and_the_end(settings: Settings, conn: Connection) -> None:
    with operation(settings, "deploy") as held, held.step("migrate", revision="001") as outcome:
        outcome["rows"] = 3
    lines = conn.execute("SELECT step, state, detail FROM kg_ops.journal ORDER BY sequence").fetchall()
    assert lines == [("migrate", "started", {"revision": "001"}), ("migrate", "done", {"rows": 3})]
    assert states(conn) == [("deploy", "done")]
    until(lambda: held_locks(conn) == 0, seconds=10)  # the server sees a closed session a moment later


def test_a_failed_step_is_journalled_and_frees_the_lock(settings: Settings, conn: Connection) -> None:
    with pytest.raises(ValueError, match="boom"), operation(settings, "deploy") as held, held.step("migrate"):
        raise ValueError("boom")
    assert conn.execute("SELECT state FROM kg_ops.journal ORDER BY sequence").fetchall() == [("started",), ("failed",)]
    assert states(conn) == [("deploy", "failed")]
    until(lambda: held_locks(conn) == 0, seconds=10)  # the server sees a closed session a moment later


def test_two_at_once_one_wins_and_the_other_says_who_holds_it(settings: Settings) -> None:
    refused: list[OperationRunning] = []

    def second() -> None:
        try:
            with operation(settings, "backup"):
                raise AssertionError("both hold the lock")
        except OperationRunning as error:
            refused.append(error)

    with operation(settings, "deploy"):
        thread = threading.Thread(target=second)  # a thread of its own context: not inside this operation
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "kg deploy lock" in refused[0].message
    assert refused[0].exit_status == 3


def test_it_is_reentrant_within_the_process(settings: Settings, conn: Connection) -> None:
    with operation(settings, "deploy") as outer, operation(settings, "rollback") as inner:
        assert inner is outer is current()
    assert states(conn) == [("deploy", "done")]


def test_a_starter_waits_for_the_sessions_of_a_dead_run(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.core.operations.sessions.PATIENCE_SECONDS", 0.5)
    assert settings.address is not None
    with connect(settings.address, purpose="orphan") as orphan:
        orphan.execute(query("share_workers_lock"))
        with pytest.raises(OperationRunning, match="kg orphan"), operation(settings, "deploy"):
            pass
    with operation(settings, "deploy"):
        pass


def test_a_session_of_an_earlier_operation_may_not_commit(settings: Settings, conn: Connection) -> None:
    with operation(settings, "deploy") as held:
        conn.execute("UPDATE kg_ops.fence SET number = number + 1")
        with (
            pytest.raises(DatabaseError, match="lost its lock"),
            held.session("late", autocommit=False) as late,
        ):
            late.execute("CREATE TABLE late (id int)")
            held.guard(late)
    assert conn.execute("SELECT to_regclass('late')").fetchone() == (None,)


def test_losing_the_locks_connection_stops_the_operation(settings: Settings, conn: Connection) -> None:
    with pytest.raises(DatabaseError), operation(settings, "deploy") as held:
        conn.execute("SELECT pg_terminate_backend(%s)", (held.conn.info.backend_pid,))
        with held.session("worker", autocommit=False) as worker:
            worker.execute("CREATE TABLE late (id int)")
            held.guard(worker)
    assert conn.execute("SELECT to_regclass('late')").fetchone() == (None,)


@pytest.fixture
def environment_of(settings: Settings) -> dict[str, str]:
    """The variables with which another process finds the test's database."""
    address = settings.address
    assert address is not None
    assert address.password is not None
    return {
        **os.environ,
        "KG_HOME": str(settings.home),
        "SUPABASE_URL": f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}",
        "SUPABASE_DB_PASSWORD": address.password.get_secret_value(),
    }


KILLED = """
import sys, time
from tasks.core.settings import load_settings
from tasks.core.operations.operation import operation
with operation(load_settings("dev"), "deploy") as held, held.step("migrate"):
    print("holding", flush=True)
    time.sleep(60)
"""


def test_after_kill_9_the_next_operation_finds_it_unfinished(
    settings: Settings, conn: Connection, environment_of: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], env=environment_of, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"holding\n"
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while held_locks(conn) and time.monotonic() < deadline:
        time.sleep(0.05)
    with caplog.at_level("INFO"), operation(settings, "deploy") as held:
        assert [(dead.kind, dead.step, dead.step_state) for dead in held.abandoned] == [
            ("deploy", "migrate", "started")
        ]
    assert "UTC died at migrate" in caplog.text
    assert states(conn) == [("deploy", "running"), ("deploy", "done")]  # until a deploy, rollback or recover settles it
    conn.execute("UPDATE kg_ops.operation SET state = 'done' WHERE state = 'running'")
    journal.begin(conn, uuid4(), "backup", "dev")
    with caplog.at_level("INFO"), operation(settings, "backup"):
        assert "UTC died at its start" in caplog.text


def test_an_operation_refuses_where_kg_ops_may_not_be_made(settings: Settings, conn: Connection) -> None:
    conn.execute("CREATE ROLE restricted LOGIN PASSWORD 'restricted'")
    try:
        assert settings.address is not None
        address = settings.address.model_copy(
            update={"user": "restricted", "password": type(settings.address.password)("restricted")}  # type: ignore[misc, arg-type]
        )
        narrow = settings.model_copy(update={"address": address})
        with pytest.raises(DatabaseError) as refused, operation(narrow, "deploy"):
            pass
        assert "GRANT CREATE ON DATABASE" in (refused.value.hint or "")
    finally:
        conn.execute("DROP ROLE restricted")
