"""check as live diagnosis: each trouble of the guide made for real, named, with the statement that ends it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.schema.live_checks import check_builds, check_leftovers, check_session
from tasks.core.schema.report import CheckResult
from tasks.core.schema.server_checks import Patience, check_idle, check_invalid_indexes, check_locks
from tasks.core.settings import Settings
from tests.integration.graphs import deploy_graph
from tests.terminal import kg

pytestmark = pytest.mark.slow

AT_ONCE = Patience(waiting=timedelta(0), idle=timedelta(0))


def until(look: Callable[[], CheckResult], wanted: Callable[[CheckResult], bool], seconds: float = 20) -> CheckResult:
    deadline = time.monotonic() + seconds
    while not wanted(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def in_background(database: Address, statement: str, *settings: str) -> tuple[threading.Thread, int]:
    """Runs until it ends or is ended from outside; its thread and its backend."""
    session = connect(database, purpose="background")
    for setting in settings:
        session.execute(setting.encode())

    def run() -> None:
        with session:
            try:
                session.execute(statement.encode())
            except psycopg.Error:
                return

    thread = threading.Thread(target=run)
    thread.start()
    return thread, session.info.backend_pid


def test_only_those_who_wait_for_nobody_are_to_be_ended(conn: Connection, database: Address) -> None:
    """A holds the table, B's ALTER waits for A, C's SELECT waits for B: A is the one."""
    conn.execute("CREATE TABLE a (id int)")
    assert check_locks(conn, AT_ONCE).status == "ok"
    with connect(database, purpose="holder") as holder, holder.transaction():
        holder.execute("SELECT * FROM a")
        altering, alter = in_background(database, "ALTER TABLE a ADD b int")
        until(lambda: check_locks(conn, AT_ONCE), lambda found: f"pid {alter}" in found.detail)
        reading, reader = in_background(database, "SELECT * FROM a")
        found = until(lambda: check_locks(conn, AT_ONCE), lambda found: f"pid {reader}" in found.detail)
        pid = holder.info.backend_pid
    altering.join()
    reading.join()
    assert f"pid {alter} ({database.user}) has waited 0 s for pid {pid}" in found.detail
    assert f"for pid {alter}" in found.detail
    assert found.remedy == f"SELECT pg_terminate_backend({pid}) ends that one"


def test_a_statement_that_works_can_be_cancelled(conn: Connection, database: Address) -> None:
    conn.execute("CREATE TABLE a (id int); INSERT INTO a VALUES (1)")
    working, busy = in_background(database, "SELECT pg_sleep(30) FROM a")
    altering, alter = in_background(database, "ALTER TABLE a ADD b int")
    found = until(lambda: check_locks(conn, AT_ONCE), lambda found: f"pid {alter}" in found.detail)
    assert found.remedy.startswith(f"SELECT pg_cancel_backend({busy})")
    conn.execute("SELECT pg_cancel_backend(%s)", (busy,))
    working.join()
    altering.join()
    assert check_locks(conn, AT_ONCE).status == "ok"


def test_an_idle_transaction(conn: Connection, database: Address) -> None:
    with connect(database, purpose="idler", autocommit=False) as idler:
        idler.execute("SELECT 1")
        found = check_idle(conn, AT_ONCE)
        assert f"SELECT pg_terminate_backend({idler.info.backend_pid})" in found.remedy
        assert "kg deploy --terminate-idle-blockers" in found.remedy
        assert check_idle(conn, Patience()).status == "ok"


def test_a_slow_build_says_how_much_is_left(conn: Connection, settings: Settings, database: Address) -> None:
    assert check_builds(conn).detail == "none is under way"
    deploy_graph(conn, settings, rows=2500)
    building, pid = in_background(
        database,
        "CREATE INDEX slow_idx ON code_embeddings USING hnsw (embedding vector_cosine_ops) WITH (ef_construction=400)",
        "SET maintenance_work_mem = '1MB'",
        "SET max_parallel_maintenance_workers = 0",
    )
    found = until(lambda: check_builds(conn), lambda found: " left" in found.detail)
    assert found.status == "ok", "slow is normal"
    assert f"(pid {pid}, 0 min so far): building index" in found.detail
    conn.execute("SELECT pg_cancel_backend(%s)", (pid,))
    building.join()


def test_a_build_that_waits_names_for_whom(conn: Connection, settings: Settings, database: Address) -> None:
    deploy_graph(conn, settings, rows=5)
    with connect(database, purpose="writer") as writer, writer.transaction():
        writer.execute("UPDATE code_patterns SET frequency = 1")
        pid = writer.info.backend_pid
        building, _ = in_background(database, "CREATE INDEX CONCURRENTLY late_idx ON code_patterns (frequency)")
        found = until(lambda: check_builds(conn), lambda found: found.status == "failed")
        assert f"for pid {pid}" in found.detail
        assert f"SELECT pg_terminate_backend({pid})" in found.remedy
        invalid = check_invalid_indexes(conn, settings)
        assert (invalid.status, "late_idx, being built now" in invalid.detail) == ("ok", True)
    building.join()


def test_an_invalid_index_has_its_statement(conn: Connection, settings: Settings) -> None:
    deploy_graph(conn, settings, rows=5)
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'code_patterns_language_idx'::regclass")
    found = check_invalid_indexes(conn, settings)
    assert found.remedy == 'DROP INDEX CONCURRENTLY "public"."code_patterns_language_idx"'
    conn.execute(found.remedy.encode())
    assert check_invalid_indexes(conn, settings).status == "ok"


def test_leftovers(conn: Connection, settings: Settings, database: Address) -> None:
    assert check_leftovers(conn, settings).detail == "none"
    ledger.identity(conn)
    conn.execute("CREATE SCHEMA kg_replaced_20260101t000000; CREATE TABLE kg_replaced_20260101t000000.t (id int)")
    assert "replaced tables are kept in kg_replaced_20260101t000000 (0 MiB)" in check_leftovers(conn, settings).detail
    conn.execute(
        "INSERT INTO kg_ops.operation (id, kind, environment, fence, host, pid, backend_pid)"
        " VALUES ('11111111-1111-4111-8111-111111111111', 'deploy', 'dev', 1, 'here', 1, 1)"
    )
    conn.execute(
        "INSERT INTO kg_ops.journal (operation, sequence, step, state)"
        " VALUES ('11111111-1111-4111-8111-111111111111', 1, 'apply', 'started')"
    )
    found = check_leftovers(conn, settings)
    assert "a deploy of " in found.detail
    assert "died at apply" in found.detail
    assert found.remedy == "kg recover dev reads the journal, and finishes or undoes it"
    with connect(database, purpose="deploy lock") as living:
        living.execute("SELECT pg_advisory_lock(27495, 1)")
        assert check_leftovers(conn, settings).status == "ok", "it lives"
    conn.execute("CREATE SCHEMA kg_expected_0123456789ab")
    assert "DROP SCHEMA kg_expected_0123456789ab CASCADE" in check_leftovers(conn, settings).remedy


def test_a_session_that_is_one(conn: Connection) -> None:
    assert check_session(conn).status == "ok"


def test_the_transaction_pooler_s_port_is_refused_with_the_right_one(tmp_path: Path) -> None:
    url = "postgresql://postgres.ref@aws.pooler.supabase.com:6543/postgres"
    done = kg("check", "staging", "--json", STAGING_DB_URL=url, KG_HOME=str(tmp_path))
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2
    assert "port 6543, Supabase's transaction pooler" in error["message"]
    assert "port 5432" in error["hint"]


def test_machines_read_each_remedy(database: Address, conn: Connection, tmp_path: Path) -> None:
    conn.execute("CREATE SCHEMA kg_expected_0123456789ab")
    assert database.password is not None
    url = f"postgresql://{database.user}@{database.host}:{database.port}/{database.dbname}"
    secret = database.password.get_secret_value()
    done = kg("check", "dev", "--json", KG_HOME=str(tmp_path), SUPABASE_URL=url, SUPABASE_DB_PASSWORD=secret)
    checks = {item["name"]: item for item in json.loads(done.stdout)["checks"]}
    assert checks["leftovers"]["remedy"] == "DROP SCHEMA kg_expected_0123456789ab CASCADE"
    assert {"session", "locks", "index builds", "client tools", "migrations", "invalid indexes"} <= set(checks)
