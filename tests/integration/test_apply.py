"""Applying and reverting: whole or not at all, with file, line and column, and never a reader kept waiting long."""

from __future__ import annotations

import subprocess
import threading
from datetime import timedelta

import psycopg
import pytest

from tasks.core.addresses import Address
from tasks.core.errors import MigrationFailed, OpsError, Refused
from tasks.core.postgres.binaries import wheel
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.schema.migrations import Migration, apply, load_migrations, revert
from tasks.core.settings import CHECKOUT, DatabaseSettings
from tests.integration.applying import SETTINGS, Write, applied, nothing, relations, write

__all__ = ["write"]  # fixtures


@pytest.fixture
def ours() -> Migration:
    return load_migrations(CHECKOUT / "sql" / "migrations")[0]


def test_up_and_down_leave_nothing_and_the_ledger_says_so(conn: Connection, ours: Migration) -> None:
    ledger.ensure(conn)
    apply(conn, ours, SETTINGS, applied(ours))
    assert {"code_embeddings", "code_patterns", "code_relationships", "embedding_cache_stats"} <= relations(conn)
    assert [entry.revision for entry in ledger.entries(conn)] == ["001"]
    revert(conn, ours, SETTINGS, lambda conn: ledger.record_reverted(conn, "001"))
    assert relations(conn) == set()
    assert conn.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'knowledge_graph%'").fetchone() == (0,)
    assert ledger.entries(conn) == ()


def test_a_session_without_autocommit_works_too_and_keeps_its_settings(database: Address, ours: Migration) -> None:
    with connect(database, purpose="test", autocommit=False) as conn:
        conn.execute("SET lock_timeout = '7s'")
        conn.commit()
        apply(conn, ours, SETTINGS, nothing)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert conn.execute("SHOW lock_timeout").fetchone() == ("7s",)
        assert not conn.autocommit
    with connect(database, purpose="test") as other:
        assert "code_embeddings" in relations(other)


def test_it_is_re_runnable(conn: Connection, ours: Migration) -> None:
    apply(conn, ours, SETTINGS, nothing)
    before = relations(conn)
    apply(conn, ours, SETTINGS, nothing)
    assert relations(conn) == before
    revert(conn, ours, SETTINGS, nothing)
    revert(conn, ours, SETTINGS, nothing)


@pytest.mark.parametrize("way", ["up", "down"])
def test_each_script_also_runs_with_psql(database: Address, conn: Connection, ours: Migration, way: str) -> None:
    psql = wheel().folder / "psql"
    script = ours.up if way == "up" else ours.down
    assert script is not None
    apply(conn, ours, SETTINGS, nothing)
    command = [psql, "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", "--file", script]
    subprocess.run(command, env=database.environment(), check=True, capture_output=True)
    assert ("code_embeddings" in relations(conn)) is (way == "up")


def test_a_failure_names_file_line_and_column_and_undoes_everything(conn: Connection, write: Write) -> None:
    migration = write("CREATE TABLE a (id int);\n-- why\nCREATE TABLE b (\n    id int,\n    other nosuchtype\n);\n")
    with pytest.raises(MigrationFailed) as caught:
        apply(conn, migration, SETTINGS, nothing)
    assert caught.value.message == '001_test.up.sql:5:11: type "nosuchtype" does not exist (42704)'
    assert relations(conn) == set()


def test_the_server_s_detail_and_hint_are_passed_on(conn: Connection, write: Write) -> None:
    migration = write("CREATE TABLE a (id int PRIMARY KEY);\nINSERT INTO a VALUES (1), (1);\n")
    with pytest.raises(MigrationFailed, match=r"001_test\.up\.sql:2:1: .*Key \(id\)=\(1\) already exists\. \(23505\)"):
        apply(conn, migration, SETTINGS, nothing)
    migration = write("CREATE TABLE a (id int);\nSELECT idd FROM a;\n")
    with pytest.raises(MigrationFailed) as caught:
        apply(conn, migration, SETTINGS, nothing)
    assert caught.value.hint == 'Perhaps you meant to reference the column "a.id".'


def test_characters_are_counted_not_bytes(conn: Connection, write: Write) -> None:
    with pytest.raises(MigrationFailed, match=r"001_test\.up\.sql:1:16: column"):
        apply(conn, write("SELECT 'äöü€', nope;"), SETTINGS, nothing)


def test_a_concurrent_build_without_the_directive_says_what_to_write(conn: Connection, write: Write) -> None:
    migration = write("CREATE TABLE a (id int);\nCREATE INDEX CONCURRENTLY i ON a (id);\n")
    with pytest.raises(MigrationFailed, match="25001") as caught:
        apply(conn, migration, SETTINGS, nothing)
    assert "-- migrate: no-transaction" in str(caught.value.hint)


def test_what_record_raises_undoes_the_migration(conn: Connection, write: Write) -> None:
    def fenced_off(_: Connection) -> None:
        raise OpsError("the lock was lost")

    with pytest.raises(OpsError, match="the lock was lost"):
        apply(conn, write("CREATE TABLE a (id int);"), SETTINGS, fenced_off)
    with pytest.raises(MigrationFailed, match=r"^001_test\.up\.sql: .*\(42P01\)$"):
        apply(conn, write("CREATE TABLE a (id int);"), SETTINGS, lambda conn: conn.execute("TABLE nowhere") and None)
    assert relations(conn) == set()


def test_before_looks_around_in_the_same_transaction(conn: Connection, write: Write) -> None:
    seen: list[set[str]] = []
    apply(
        conn,
        write("CREATE TABLE a (id int);"),
        SETTINGS,
        lambda conn: seen.append(relations(conn)),
        before=lambda conn: seen.append(relations(conn)),
    )
    assert seen == [set(), {"a"}]


def test_a_deferred_constraint_that_fails_at_commit_is_a_failed_migration(conn: Connection, write: Write) -> None:
    migration = write(
        "CREATE TABLE a (id int PRIMARY KEY, parent int REFERENCES a DEFERRABLE INITIALLY DEFERRED);\n"
        "INSERT INTO a VALUES (1, 2);\n"
    )
    with pytest.raises(MigrationFailed, match="23503"):
        apply(conn, migration, SETTINGS, nothing)
    assert relations(conn) == set()


def test_the_session_of_a_migration(conn: Connection, write: Write) -> None:
    conn.execute("CREATE SCHEMA kg; CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions")
    conn.execute("SET synchronous_commit = off")
    names = ("search_path", "lock_timeout", "statement_timeout", "synchronous_commit")
    shown: list[str] = []

    def look(conn: Connection) -> None:
        shown.extend(conn.execute(f"SHOW {name}").fetchone()[0] for name in names)  # type: ignore[index, misc, call-overload]

    settings = DatabaseSettings(schema="kg", lock_timeout=timedelta(seconds=2), statement_timeout=timedelta(hours=1))
    apply(conn, write("CREATE TABLE a (v vector(3));"), settings, look)
    assert shown == ['"kg", "extensions"', "2s", "1h", "on"]
    assert conn.execute("SHOW synchronous_commit").fetchone() == ("off",)
    assert conn.execute("SELECT to_regclass('kg.a') IS NOT NULL, to_regclass('public.a')").fetchone() == (True, None)


def test_a_missing_schema_is_named(conn: Connection, write: Write) -> None:
    with pytest.raises(MigrationFailed, match="3F000") as caught:
        apply(conn, write("CREATE TABLE a (id int);"), DatabaseSettings(schema="nowhere"), nothing)
    assert "schema" in str(caught.value.hint)


def test_statement_timeout_ends_a_statement(conn: Connection, write: Write) -> None:
    settings = DatabaseSettings(schema="public", statement_timeout=timedelta(milliseconds=100))
    with pytest.raises(MigrationFailed, match="57014") as caught:
        apply(conn, write("SELECT pg_sleep(30);"), settings, nothing)
    assert "statement_timeout" in str(caught.value.hint)


def test_an_irreversible_migration_is_not_reverted(conn: Connection, write: Write) -> None:
    migration = write("-- migrate: irreversible\nCREATE TABLE a (id int);\n", None)
    apply(conn, migration, SETTINGS, nothing)
    with pytest.raises(Refused, match="irreversible"):
        revert(conn, migration, SETTINGS, nothing)
    assert relations(conn) == {"a"}


def test_a_killed_session_is_a_failed_migration(database: Address, conn: Connection, write: Write) -> None:
    pid = conn.info.backend_pid
    with connect(database, purpose="killer") as killer:
        threading.Timer(0.3, lambda: killer.execute("SELECT pg_terminate_backend(%s)", [pid])).start()
        with pytest.raises(MigrationFailed, match=r"001_test\.up\.sql:2:1: .*(57P01|connection lost)"):
            apply(conn, write("CREATE TABLE a (id int);\nSELECT pg_sleep(30);"), SETTINGS, nothing)
        assert relations(killer) == set()


def test_a_role_that_may_not_create_the_extension_is_told_what_a_superuser_runs(
    conn: Connection, ours: Migration
) -> None:
    conn.execute("CREATE ROLE plain_owner; GRANT CREATE ON SCHEMA public TO plain_owner; SET ROLE plain_owner")
    try:
        with pytest.raises(MigrationFailed, match="42501") as caught:
            apply(conn, ours, SETTINGS, nothing)
        assert caught.value.hint == "a superuser runs, in this database: CREATE EXTENSION vector"
    finally:
        conn.execute("RESET ROLE; DROP OWNED BY plain_owner; DROP ROLE plain_owner")
