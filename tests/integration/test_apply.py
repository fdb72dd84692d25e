"""Applying and reverting: whole or not at all, with file, line and column, and never a reader kept waiting long."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tasks.core.addresses import Address
from tasks.core.errors import MigrationFailed, OpsError, Refused
from tasks.core.postgres.binaries import wheel
from tasks.core.postgres.connections import Connection, connect
from tasks.core.progress import Silent, reporting
from tasks.core.schema import ledger
from tasks.core.schema.migrations import Migration, apply, load_migrations, revert
from tasks.core.settings import CHECKOUT, DatabaseSettings

SETTINGS = DatabaseSettings(schema="public", lock_timeout=timedelta(milliseconds=150), lock_attempts=3)

Write = Callable[..., Migration]


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def noted(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def notes() -> Iterator[Notes]:
    reporter = Notes()
    with reporting(reporter):
        yield reporter


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a migration 001_test and loads it."""

    def write(up: str, down: str | None = "SELECT 1;") -> Migration:
        (tmp_path / "001_test.up.sql").write_text(up)
        if down is not None:
            (tmp_path / "001_test.down.sql").write_text(down)
        return load_migrations(tmp_path)[0]

    return write


@pytest.fixture
def ours() -> Migration:
    return load_migrations(CHECKOUT / "sql" / "migrations")[0]


def nothing(_: Connection) -> None:
    """A record that records nothing."""


def applied(migration: Migration) -> Callable[[Connection], None]:
    return lambda conn: ledger.record_applied(conn, migration)


def relations(conn: Connection) -> set[str]:
    rows = conn.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind <> 'c'")
    return {row[0] for row in rows}


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


def test_while_it_waits_it_says_for_whom_and_then_gives_up(
    database: Address, conn: Connection, write: Write, notes: Notes
) -> None:
    conn.execute("CREATE TABLE a (id int)")
    settings = SETTINGS.model_copy(update={"lock_timeout": timedelta(milliseconds=700), "lock_attempts": 2})
    with connect(database, purpose="reader") as reader, reader.transaction():
        reader.execute("SELECT * FROM a")
        with pytest.raises(MigrationFailed, match=r"001_test\.up\.sql:1:1: canceling statement .*55P03") as caught:
            apply(conn, write("ALTER TABLE a ADD b int;"), settings, nothing)
        pid = reader.info.backend_pid
    said = "\n".join(notes.lines)
    assert f"001_test.up.sql waits for pid {pid} ({database.user}, idle in transaction since" in said
    assert "SELECT * FROM a" in said
    assert "attempt 2 of 2" in said
    assert f"pid {pid}" in str(caught.value.hint)


def test_the_whole_transaction_is_tried_again_until_its_locks_are_granted(
    database: Address, conn: Connection, write: Write
) -> None:
    conn.execute("CREATE TABLE a (id int)")
    recorded: list[int] = []
    with connect(database, purpose="reader", autocommit=False) as reader:
        reader.execute("SELECT * FROM a")
        release = threading.Timer(0.5, reader.commit)
        release.start()
        migration = write("CREATE TABLE before_it (id int);\nALTER TABLE a ADD b int;")
        apply(conn, migration, SETTINGS, lambda _: recorded.append(1))
        release.join()
    assert recorded == [1]
    assert "before_it" in relations(conn)


def test_readers_wait_no_longer_than_the_lock_timeout(database: Address, conn: Connection, write: Write) -> None:
    """One long reader holds the table; the ALTER queues behind it, and short readers queue behind the ALTER."""
    conn.execute("CREATE TABLE a (id int)")
    longest, done = [0.0], threading.Event()

    def read() -> None:
        with connect(database, purpose="short reader") as mine:
            while not done.is_set():
                began = time.monotonic()
                mine.execute("SELECT count(*) FROM a")
                longest[0] = max(longest[0], time.monotonic() - began)

    readers = [threading.Thread(target=read) for _ in range(2)]
    with connect(database, purpose="long reader") as reader, reader.transaction():
        reader.execute("SELECT * FROM a")
        for thread in readers:
            thread.start()
        with pytest.raises(MigrationFailed, match="55P03"):
            apply(conn, write("ALTER TABLE a ADD b int;"), SETTINGS, nothing)
        done.set()
        for thread in readers:
            thread.join()
    assert 0.05 < longest[0] < SETTINGS.lock_timeout.total_seconds() + 0.4


def test_idle_blockers_are_ended_on_request_after_they_were_shown(
    database: Address, conn: Connection, write: Write, notes: Notes
) -> None:
    """A long reader that idles, and many short ones: the way comes free, and nobody waits beyond lock_timeout."""
    conn.execute("CREATE TABLE a (id int)")
    wanted = {"lock_timeout": timedelta(milliseconds=700), "lock_attempts": 5, "terminate_idle_blockers": True,
              "idle_blocker_limit": timedelta(seconds=1)}  # fmt: skip
    settings = SETTINGS.model_copy(update=wanted)
    longest, done = [0.0], threading.Event()

    def read() -> None:
        with connect(database, purpose="short reader") as mine:
            while not done.is_set():
                began = time.monotonic()
                mine.execute("SELECT count(*) FROM a")
                longest[0] = max(longest[0], time.monotonic() - began)

    readers = [threading.Thread(target=read) for _ in range(4)]
    idler = connect(database, purpose="long reader", autocommit=False)
    idler.execute("SELECT * FROM a")
    pid = idler.info.backend_pid
    for thread in readers:
        thread.start()
    try:
        apply(conn, write("ALTER TABLE a ADD b int;"), settings, nothing)
    finally:
        done.set()
        for thread in readers:
            thread.join()
    with pytest.raises(psycopg.OperationalError):
        idler.execute("SELECT 1")
    said = [line for line in notes.lines if f"pid {pid}" in line]
    assert ["waits for" in said[0], said[-1].startswith("ended pid")] == [True, True], notes.lines
    assert longest[0] < settings.lock_timeout.total_seconds() + 0.4
    assert conn.execute("SELECT count(b) FROM a").fetchone() == (0,)


def test_a_blocker_that_idles_only_briefly_is_left_alone(database: Address, conn: Connection, write: Write) -> None:
    conn.execute("CREATE TABLE a (id int)")
    wanted = {"lock_timeout": timedelta(milliseconds=900), "lock_attempts": 2, "terminate_idle_blockers": True}
    with connect(database, purpose="brief") as brief, brief.transaction():
        brief.execute("SELECT * FROM a")
        with pytest.raises(MigrationFailed, match="55P03") as caught:
            apply(conn, write("ALTER TABLE a ADD b int;"), SETTINGS.model_copy(update=wanted), nothing)
        assert "--terminate-idle-blockers" in str(caught.value.hint)
        assert brief.execute("SELECT 1").fetchone() == (1,)


def test_a_blocker_that_works_is_left_alone_however_long(database: Address, conn: Connection, write: Write) -> None:
    conn.execute("CREATE TABLE a (id int)")
    wanted = {"lock_timeout": timedelta(milliseconds=900), "lock_attempts": 2, "terminate_idle_blockers": True,
              "idle_blocker_limit": timedelta(0)}  # fmt: skip
    with connect(database, purpose="busy") as busy:
        working = threading.Thread(target=lambda: busy.execute("SELECT pg_sleep(4) FROM a"))
        conn.execute("INSERT INTO a VALUES (1)")
        working.start()
        with pytest.raises(MigrationFailed, match="55P03"):
            apply(conn, write("ALTER TABLE a ADD b int;"), SETTINGS.model_copy(update=wanted), nothing)
        working.join()
        assert busy.execute("SELECT 1").fetchone() == (1,)


def test_a_deadlock_is_tried_again(database: Address, conn: Connection, write: Write, notes: Notes) -> None:
    conn.execute("CREATE TABLE a (id int); CREATE TABLE b (id int)")
    settings = SETTINGS.model_copy(update={"lock_timeout": timedelta(seconds=5)})
    migration = write("ALTER TABLE a ADD x int;\nSELECT pg_sleep(0.6);\nALTER TABLE b ADD x int;")
    with connect(database, purpose="other", autocommit=False) as other:
        # Whoever looks for a deadlock first is the one that is cancelled: ours.
        other.execute("SET deadlock_timeout = '20s'")
        conn.execute("SET deadlock_timeout = '50ms'")
        other.execute("LOCK TABLE b")

        def cross() -> None:
            other.execute("LOCK TABLE a")
            other.commit()

        thread = threading.Timer(0.3, cross)
        thread.start()
        apply(conn, migration, settings, nothing)
        thread.join()
    assert "deadlock detected" in "\n".join(notes.lines)
    assert conn.execute("SELECT count(a.x) + count(b.x) FROM a, b").fetchone() == (0,)


NO_TRANSACTION = "-- migrate: no-transaction\n"


def test_without_a_transaction_statements_run_one_by_one(conn: Connection, write: Write) -> None:
    conn.execute("SET lock_timeout = '7s'")
    ledger.ensure(conn)
    migration = write(f"{NO_TRANSACTION}CREATE TABLE a (id int);\nCREATE INDEX CONCURRENTLY a_idx ON a (id);\n")
    apply(conn, migration, SETTINGS, applied(migration))
    assert relations(conn) == {"a", "a_idx"}
    assert [entry.revision for entry in ledger.entries(conn)] == ["001"]
    assert conn.execute("SHOW lock_timeout").fetchone() == ("7s",)
    assert conn.execute("SHOW search_path").fetchone() == ('"$user", public',)


def test_without_a_transaction_what_is_done_stays_and_is_said(conn: Connection, write: Write) -> None:
    recorded: list[int] = []
    migration = write(f"{NO_TRANSACTION}CREATE TABLE a (id int);\nCREATE TABLE b (id nope);\n")
    with pytest.raises(MigrationFailed, match=r"001_test\.up\.sql:3:20: ") as caught:
        apply(conn, migration, SETTINGS, lambda _: recorded.append(1))
    assert "the first 1 of its 2 statements are committed" in str(caught.value.hint)
    assert (relations(conn), recorded) == ({"a"}, [])


def test_an_invalid_index_that_if_not_exists_passes_over_is_not_applied(conn: Connection, write: Write) -> None:
    conn.execute("CREATE TABLE a (id int); INSERT INTO a VALUES (1), (1)")
    migration = write(f"{NO_TRANSACTION}CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS a_idx ON a (id);\n")
    with pytest.raises(MigrationFailed, match="23505"):
        apply(conn, migration, SETTINGS, nothing)
    conn.execute("DELETE FROM a")
    with pytest.raises(MigrationFailed, match="index a_idx in schema public is not valid") as caught:
        apply(conn, migration, SETTINGS, nothing)
    assert 'DROP INDEX CONCURRENTLY "public"."a_idx"' in str(caught.value.hint)
    conn.execute("DROP INDEX a_idx")
    apply(conn, migration, SETTINGS, nothing)


def test_a_concurrent_build_waits_for_older_transactions_beyond_the_lock_timeout(
    database: Address, conn: Connection, write: Write
) -> None:
    conn.execute("CREATE TABLE a (id int)")
    with connect(database, purpose="writer", autocommit=False) as writer:
        writer.execute("INSERT INTO a VALUES (1)")
        release = threading.Timer(1.0, writer.commit)
        release.start()
        apply(conn, write(f"{NO_TRANSACTION}CREATE INDEX CONCURRENTLY a_idx ON a (id);\n"), SETTINGS, nothing)
        release.join()
    assert "a_idx" in relations(conn)


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
