"""A migration outside a transaction: its statements are committed one by one, and run again."""

from __future__ import annotations

import threading

import pytest

from tasks.core.addresses import Address
from tasks.core.errors import MigrationFailed
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.schema.migrations import apply
from tests.integration.applying import SETTINGS, Write, applied, nothing, relations, write

__all__ = ["write"]  # fixtures


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
