"""Backups of a real server: what they hold, the snapshot they are taken from, and who may make one."""

from __future__ import annotations

import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard
from psycopg import errors
from psycopg.sql import SQL, Identifier, Literal
from pydantic import SecretStr

from tasks.core.backup import dump
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find
from tasks.core.backup.manifest import DUMP, GLOBALS, MANIFEST
from tasks.core.backup.readback import read_back
from tasks.core.backup.snapshot import Snapshot, held_snapshot
from tasks.core.errors import (
    BackupError,
    DatabaseError,
    PrivilegeMissing,
)
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import Settings
from tasks.core.store.base import open_store
from tests.integration.graphs import ROWS, deploy_graph, files, with_section
from tests.processes import until

SECOND = timedelta(seconds=1)


@contextmanager
def snapshot_of(conn: Connection, wait: timedelta = SECOND) -> Iterator[Snapshot]:
    with held_snapshot(conn, None, lock_timeout=wait, longest=timedelta(minutes=5)) as snapshot:
        yield snapshot


# What a backup holds


def test_an_empty_database_can_be_backed_up(settings: Settings) -> None:
    backup = back_up(settings)
    assert backup.manifest.tables == {}
    assert (backup.manifest.revision, backup.manifest.database.uuid) == ("", "")
    read_back(open_store(settings), backup, tools_for(backup.manifest.server.major, settings.home))


def test_a_manifest_says_what_the_archive_holds(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings)
    backup = back_up(settings, operation="op-1")
    manifest = backup.manifest
    assert manifest.tables["public.code_embeddings"] == ROWS
    assert manifest.tables["public.code_patterns"] == 0
    assert manifest.tables["kg_ops.ledger"] == 1
    assert set(manifest.samples) >= {"public.code_embeddings", "public.code_relationships"}
    assert "public.code_embeddings_id_seq" in manifest.sequences
    assert manifest.revision == "001"
    assert manifest.operation == "op-1"
    assert manifest.database.uuid
    assert manifest.database.system_identifier
    assert manifest.extensions["vector"].version == manifest.server.pgvector
    assert manifest.snapshot_held_seconds > 0
    assert files(settings) == sorted(backup.key(name) for name in (DUMP, GLOBALS, MANIFEST))
    assert not backup.proved
    assert find(open_store(settings), "dev", backup.id) == backup


def test_a_backup_restores_with_zstd_and_pg_restore_alone(settings: Settings, conn: Connection, tmp_path: Path) -> None:
    deploy_graph(conn, settings)
    backup = back_up(settings)
    plain = tmp_path / "database.dump"
    packed = Path(settings.store_url.removeprefix("file://"), backup.key(DUMP))
    with packed.open("rb") as source, plain.open("wb") as sink:
        zstandard.ZstdDecompressor().copy_stream(source, sink)
    tools = tools_for(backup.manifest.server.major, settings.home)
    listed = subprocess.run([tools.pg_restore, "--list", plain], capture_output=True, text=True, check=True).stdout
    assert "TABLE DATA public code_embeddings" in listed
    assert plain.stat().st_size == backup.manifest.dump.plain_bytes


def test_only_the_scope_is_dumped(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings)
    conn.execute("CREATE SCHEMA theirs")
    conn.execute("CREATE TABLE theirs.secrets AS SELECT 1 AS one")
    scoped = with_section(settings, "database", scope=("public", "not_there_yet"))
    assert not any(table.startswith("theirs.") for table in back_up(scoped).manifest.tables)
    assert back_up(settings).manifest.tables["theirs.secrets"] == 1


def test_odd_names_partitions_inheritance_and_extensions_own_tables(settings: Settings, conn: Connection) -> None:
    conn.execute('CREATE SCHEMA "Odd $chema"')
    conn.execute('CREATE TABLE "Odd $chema"."tab""le x" ("i d" int PRIMARY KEY)')
    conn.execute('INSERT INTO "Odd $chema"."tab""le x" VALUES (1), (2)')
    conn.execute("CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    conn.execute("CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10)")
    conn.execute("INSERT INTO part VALUES (1), (2), (3)")
    conn.execute("CREATE TABLE parent (id int)")
    conn.execute("CREATE TABLE child () INHERITS (parent)")
    conn.execute("INSERT INTO child VALUES (1)")
    conn.execute("CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS one")
    conn.execute("CREATE TEMPORARY TABLE mine (id int)")
    conn.execute("CREATE MATERIALIZED VIEW seen AS SELECT * FROM part")
    assert back_up(settings).manifest.tables == {
        '"Odd $chema"."tab""le x"': 2,
        "public.part_1": 3,
        "public.parent": 0,
        "public.child": 1,
        "public.unlogged": 1,
    }
    odd = with_section(settings, "database", scope=("Odd $chema",))
    assert '"Odd $chema"."tab""le x"' in back_up(odd).manifest.tables


# The snapshot


def test_the_locks_come_before_the_snapshot(settings: Settings, conn: Connection) -> None:
    """Rows committed while a lock was waited for are in the snapshot, so it was taken afterwards."""
    assert settings.address
    conn.execute("CREATE TABLE t (id int)")
    seen: list[int] = []
    with connect(settings.address, purpose="test") as backing_up, connect(settings.address, purpose="test") as writer:

        def wait_and_count() -> None:
            with snapshot_of(backing_up, wait=timedelta(seconds=20)):
                row = backing_up.execute("SELECT count(*) FROM t").fetchone()
                assert row
                seen.append(row[0])

        writer.execute("BEGIN")
        writer.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=wait_and_count)
        thread.start()
        while not conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass").fetchone():
            time.sleep(0.02)
        writer.execute("INSERT INTO t VALUES (1)")
        writer.execute("COMMIT")
        thread.join()
    assert seen == [1]


def test_nobody_truncates_while_the_snapshot_is_held(settings: Settings, conn: Connection) -> None:
    assert settings.address
    conn.execute("CREATE TABLE t AS SELECT 1 AS one")
    conn.execute("SET lock_timeout = '200ms'")
    with connect(settings.address, purpose="test") as backing_up:
        with snapshot_of(backing_up) as snapshot:
            assert [table.label for table in snapshot.tables] == ["public.t"]
            for statement in ("TRUNCATE t", "DROP TABLE t", "ALTER TABLE t ADD COLUMN two int"):
                with pytest.raises(errors.LockNotAvailable):
                    conn.execute(statement.encode())
            conn.execute("INSERT INTO t VALUES (2)")
        conn.execute("TRUNCATE t")


def test_the_server_bounds_how_long_a_snapshot_is_held(settings: Settings, conn: Connection) -> None:
    assert settings.address
    with connect(settings.address, purpose="test") as backing_up:
        holding = held_snapshot(backing_up, None, lock_timeout=SECOND, longest=timedelta(milliseconds=300))
        with holding as snapshot, connect(settings.address, purpose="test") as importer:
            time.sleep(1)
            importer.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            with pytest.raises(errors.UndefinedObject):
                importer.execute(SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot.name)))


def test_a_table_that_stays_locked_is_named(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings)
    impatient = with_section(settings, "database", lock_timeout=timedelta(milliseconds=200))
    with conn.transaction():
        conn.execute("LOCK TABLE code_patterns IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseError, match=r"locking public\.code_patterns"):
            back_up(impatient)
    assert files(settings) == []


def test_tables_that_come_and_go_do_not_confuse_the_snapshot(settings: Settings, conn: Connection) -> None:
    stop = threading.Event()
    assert settings.address

    def churn() -> None:
        with connect(settings.address, purpose="churn") as other:  # type: ignore[arg-type]
            while not stop.is_set():
                other.execute("CREATE TABLE fleeting (id int)")
                other.execute("DROP TABLE fleeting")
                time.sleep(0.03)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(3):
            backup = back_up(settings)
            assert set(backup.manifest.tables) <= {"public.fleeting"}
    finally:
        stop.set()
        thread.join()


def test_a_drop_that_waits_for_us_does_not_hold_up_pg_dump(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for our lock, pg_dump's waits behind it, and we for pg_dump: the server sees no deadlock in that."""
    conn.execute("CREATE TABLE fleeting (id int)")
    plain, threads = dump.dump_argv, list[threading.Thread]()

    def drop() -> None:
        assert settings.address
        with connect(settings.address, purpose="drop") as other:
            other.execute("DROP TABLE fleeting")

    def argv(*words: Any) -> list[str | Path]:
        if not threads:
            threads.append(threading.Thread(target=drop))
            threads[0].start()
            until(lambda: conn.execute("SELECT FROM pg_locks WHERE NOT granted").fetchone() is not None, seconds=10)
        return plain(*words)

    monkeypatch.setattr(dump, "dump_argv", argv)
    backup = back_up(with_section(settings, "database", lock_timeout=timedelta(seconds=1)))
    threads[0].join()
    assert backup.manifest.tables == {}, "as it is without the table"
    assert {Path(name).parts[1] for name in files(settings)} == {backup.id}, "and nothing of the first attempt"


# Who may


@pytest.fixture
def reader(settings: Settings, conn: Connection) -> Iterator[Settings]:
    """The settings of a role that may read all tables but owns none."""
    assert settings.address
    deploy_graph(conn, settings)
    role, password = f"reader_{secrets.token_hex(3)}", secrets.token_hex(8)
    name = Identifier(role)
    conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, Literal(password)))
    conn.execute(SQL("GRANT CREATE ON DATABASE {} TO {}").format(Identifier(settings.address.dbname), name))
    for schema in ("public", "kg_ops"):
        place = Identifier(schema)
        conn.execute(SQL("GRANT USAGE ON SCHEMA {} TO {}").format(place, name))
        conn.execute(SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}").format(place, name))
        conn.execute(SQL("GRANT SELECT ON ALL SEQUENCES IN SCHEMA {} TO {}").format(place, name))
    address = settings.address.model_copy(update={"user": role, "password": SecretStr(password)})
    yield settings.model_copy(update={"address": address})
    conn.execute(SQL("DROP OWNED BY {}").format(name))
    conn.execute(SQL("DROP ROLE {}").format(name))


def test_a_role_that_reads_everything_may_back_up(reader: Settings) -> None:
    assert back_up(reader).manifest.tables["public.code_embeddings"] == ROWS


def test_an_unreadable_table_is_named_with_the_grant(reader: Settings, conn: Connection) -> None:
    conn.execute("CREATE TABLE private_notes (id int)")
    with pytest.raises(PrivilegeMissing, match=r"may not read public\.private_notes") as caught:
        back_up(reader)
    assert "GRANT SELECT ON public.private_notes" in (caught.value.hint or "")
    assert files(reader) == []


def test_row_security_is_an_error_and_not_a_smaller_backup(reader: Settings, conn: Connection) -> None:
    conn.execute("ALTER TABLE code_embeddings ENABLE ROW LEVEL SECURITY")
    with pytest.raises(PrivilegeMissing, match=r"row-level security.* public\.code_embeddings") as caught:
        back_up(reader)
    assert "BYPASSRLS" in (caught.value.hint or "")
    assert files(reader) == []


def test_a_sequence_behind_its_column_is_named_with_what_mends_it(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings)
    conn.execute("INSERT INTO code_patterns VALUES (41, 'a', 'b', 'c', 'd')")
    with pytest.raises(
        BackupError, match=r"public\.code_patterns_id_seq gives 1 next, but id already goes up to 41"
    ) as got:
        back_up(settings)
    assert files(settings) == []
    assert got.value.hint
    conn.execute(got.value.hint.removeprefix("set it: ").encode())
    assert back_up(settings).manifest.tables["public.code_patterns"] == 1
