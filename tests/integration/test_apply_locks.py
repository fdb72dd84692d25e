"""A migration that has to wait: it says for whom, tries again, and keeps no reader waiting for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest
from psycopg import errors

from tasks.core.addresses import Address
from tasks.core.errors import MigrationFailed
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema.migrations import apply
from tests.integration.applying import SETTINGS, Notes, Write, notes, nothing, relations, write
from tests.processes import until

__all__ = ["notes", "write"]  # fixtures


@contextmanager
def short_readers(database: Address, count: int) -> Iterator[list[float]]:
    """So many sessions that go on reading table a; the longest that one of them took, in seconds."""
    longest, done = [0.0], threading.Event()

    def read() -> None:
        with connect(database, purpose="short reader") as mine:
            while not done.is_set():
                began = time.monotonic()
                mine.execute("SELECT count(*) FROM a")
                longest[0] = max(longest[0], time.monotonic() - began)

    readers = [threading.Thread(target=read) for _ in range(count)]
    for thread in readers:
        thread.start()
    try:
        yield longest
    finally:
        done.set()
        for thread in readers:
            thread.join()


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
    with connect(database, purpose="long reader") as reader, reader.transaction():
        reader.execute("SELECT * FROM a")
        with short_readers(database, 2) as longest, pytest.raises(MigrationFailed, match="55P03"):
            apply(conn, write("ALTER TABLE a ADD b int;"), SETTINGS, nothing)
    assert 0.05 < longest[0] < SETTINGS.lock_timeout.total_seconds() + 0.4


def test_idle_blockers_are_ended_on_request_after_they_were_shown(
    database: Address, conn: Connection, write: Write, notes: Notes
) -> None:
    """A long reader that idles, and many short ones: the way comes free, and nobody waits beyond lock_timeout."""
    conn.execute("CREATE TABLE a (id int)")
    wanted = {"lock_timeout": timedelta(milliseconds=700), "lock_attempts": 5, "terminate_idle_blockers": True,
              "idle_blocker_limit": timedelta(seconds=1)}  # fmt: skip
    settings = SETTINGS.model_copy(update=wanted)
    idler = connect(database, purpose="long reader", autocommit=False)
    idler.execute("SELECT * FROM a")
    pid = idler.info.backend_pid
    with short_readers(database, 4) as longest:
        apply(conn, write("ALTER TABLE a ADD b int;"), settings, nothing)
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

        def work() -> None:
            with pytest.raises(errors.QueryCanceled):
                busy.execute("SELECT pg_sleep(60) FROM a")

        working = threading.Thread(target=work)
        conn.execute("INSERT INTO a VALUES (1)")
        working.start()
        sleeping = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        until(lambda: bool(conn.execute(sleeping, [busy.info.backend_pid]).fetchall()), seconds=30)
        with pytest.raises(MigrationFailed, match="55P03"):
            apply(conn, write("ALTER TABLE a ADD b int;"), SETTINGS.model_copy(update=wanted), nothing)
        assert working.is_alive()
        busy.cancel()
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
