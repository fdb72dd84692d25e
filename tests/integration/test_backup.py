"""Backups of a real server: what they hold, what refuses one, and what a failed one leaves behind (nothing)."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import zstandard
from moto.server import ThreadedMotoServer
from psycopg import errors
from psycopg.sql import SQL, Identifier, Literal
from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.backup import dump
from tasks.core.backup.contents import Table
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import backups, find, read_library
from tasks.core.backup.manifest import DUMP, MANIFEST, Backup
from tasks.core.backup.readback import read_back
from tasks.core.backup.retention import prune
from tasks.core.backup.snapshot import Snapshot, held_snapshot
from tasks.core.backup.toc import Contents
from tasks.core.errors import (
    BackupError,
    CommandFailed,
    DatabaseError,
    IntegrityError,
    PrivilegeMissing,
    StoreError,
)
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import Settings
from tasks.core.store.base import Store, Stored, open_store
from tasks.core.store.files import FileStore
from tests.integration.graphs import ROWS, deploy_graph

SECOND = timedelta(seconds=1)


def files(settings: Settings) -> list[str]:
    """Everything in the store's folder, temporary files too."""
    folder = Path(settings.store_url.removeprefix("file://"))
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def with_section(settings: Settings, section: str, **changes: Any) -> Settings:
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=changes)})


@contextmanager
def snapshot_of(conn: Connection, wait: timedelta = SECOND) -> Iterator[Snapshot]:
    with held_snapshot(conn, None, lock_timeout=wait, longest=timedelta(minutes=5)) as snapshot:
        yield snapshot


class Meddling(FileStore):
    """A real store; `meddle` is called with the key after the first chunk of each object has passed."""

    meddle: Callable[[str], None]

    def put(
        self, key: str, chunks: Iterable[bytes], *, size_hint: int | None = None, only_if_absent: bool = False
    ) -> Stored:
        def watched() -> Iterator[bytes]:
            for number, chunk in enumerate(chunks):
                yield chunk
                if number == 0:
                    self.meddle(key)

        return super().put(key, watched(), size_hint=size_hint, only_if_absent=only_if_absent)


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], None]], None]:
    """Let `back_up` write to a store that calls a function on the way."""

    def use(action: Callable[[str], None]) -> None:
        def opened(settings: Settings) -> Store:
            store = Meddling.from_url(settings.store_url)
            assert isinstance(store, Meddling)
            store.meddle = action
            return store

        monkeypatch.setattr(dump, "open_store", opened)

    return use


def the_pg_dump() -> int:
    """Process id of our pg_dump."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = path.read_text().split()
            if words[1] == "(pg_dump)" and int(words[3]) == os.getpid():
                return int(words[0])
    raise AssertionError("no pg_dump runs")


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
    assert files(settings) == sorted(backup.key(name) for name in (DUMP, MANIFEST))
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


def test_rows_written_meanwhile_are_in_neither_counts_nor_dump(
    settings: Settings, conn: Connection, meddle: Callable[[Callable[[str], None]], None]
) -> None:
    deploy_graph(conn, settings)

    def write(key: str) -> None:
        if key.endswith(DUMP):
            conn.execute("INSERT INTO code_patterns VALUES (1, 'a', 'b', 'c', 'd')")

    meddle(write)
    backup = back_up(settings)
    assert backup.manifest.tables["public.code_patterns"] == 0
    assert drill(settings, backup).ok


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


# What a failed one leaves behind


def end_pg_dump(conn: Connection, _: str) -> None:
    ended = conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kg backup dump'"
    ).fetchall()
    assert ended


def test_a_pg_dump_that_fails_leaves_nothing(
    settings: Settings, conn: Connection, meddle: Callable[[Callable[[str], None]], None]
) -> None:
    deploy_graph(conn, settings)
    meddle(lambda key: end_pg_dump(conn, key))
    with pytest.raises(CommandFailed, match="pg_dump ended with status 1"):
        back_up(settings)
    assert files(settings) == []


def test_a_stalled_pg_dump_is_ended(settings: Settings, conn: Connection, meddle: Any) -> None:
    deploy_graph(conn, settings)
    meddle(lambda _: os.kill(the_pg_dump(), signal.SIGSTOP))
    with pytest.raises(BackupError, match="wrote nothing for 1 s"):
        back_up(with_section(settings, "backup", stall_timeout=SECOND))
    assert files(settings) == []


def test_a_dump_that_takes_too_long_is_ended(settings: Settings, conn: Connection, meddle: Any) -> None:
    deploy_graph(conn, settings)
    meddle(lambda _: time.sleep(1.5))
    with pytest.raises(CommandFailed, match="pg_dump did not end within 1 s"):
        back_up(with_section(settings, "backup", dump_timeout=SECOND))
    assert files(settings) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, StoreError])
@pytest.mark.parametrize("name", [DUMP, MANIFEST])
def test_an_interrupted_upload_leaves_nothing(
    settings: Settings, conn: Connection, meddle: Any, error: type[BaseException], name: str
) -> None:
    deploy_graph(conn, settings)

    def interrupt(key: str) -> None:
        if key.endswith(name):
            raise error("now")

    meddle(interrupt)
    with pytest.raises(error):
        back_up(settings)
    assert files(settings) == []
    deadline = time.monotonic() + 5
    while conn.execute("SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'kg backup%'").fetchall():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_backup_is_no_backup_and_is_swept(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings)
    kill = (
        "import os, sys\n"
        "from tasks.core.backup import dump\n"
        "from tasks.core.settings import Settings\n"
        "from tasks.core.store.files import FileStore\n"
        "class Killed(FileStore):\n"
        "    def put(self, key, chunks, **options):\n"
        "        if key.endswith('manifest.json'): os.kill(os.getpid(), 9)\n"
        "        return super().put(key, chunks, **options)\n"
        "dump.open_store = lambda settings: Killed.from_url(settings.store_url)\n"
        "settings = Settings.model_validate_json(sys.stdin.read())\n"
        "from pydantic import SecretStr\n"
        "address = settings.address.model_copy(update={'password': SecretStr(sys.argv[1])})\n"
        "dump.back_up(settings.model_copy(update={'address': address}))\n"
    )
    assert settings.address
    assert settings.address.password
    document = settings.model_dump_json(by_alias=True)
    argv = [sys.executable, "-c", kill, settings.address.password.get_secret_value()]
    done = subprocess.run(argv, input=document, text=True, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    [left] = files(settings)
    assert left.endswith(DUMP)
    assert backups(open_store(settings), "dev") == ()
    proved = drill(settings, back_up(settings))
    assert prune(settings, apply=True).sweep == ()
    long_ago = time.time() - 2 * 86400
    os.utime(Path(settings.store_url.removeprefix("file://"), left), (long_ago, long_ago))
    [swept] = prune(settings, apply=True).sweep
    assert left.startswith(f"dev/{swept.id}/")
    assert left not in files(settings)
    assert [backup.id for backup in backups(open_store(settings), "dev")] == [proved.backup]


def test_the_archive_must_hold_exactly_the_counted_tables() -> None:
    def table(name: str, *, has_rows: bool = True) -> Table:
        return Table(f"public.{name}", "public", name, "kg", has_rows, "", ())

    found = Contents(
        ("215; 1259 16 TABLE public a kg", "3; 0 16 TABLE DATA public a kg", "4; 0 17 TABLE DATA public b kg")
    )
    found.check_tables([table("a"), table("b"), table("parent", has_rows=False)])
    with pytest.raises(BackupError, match="left out the rows of public c kg"):
        found.check_tables([table("a"), table("b"), table("c")])
    with pytest.raises(BackupError, match="dumped the rows of public b kg, which was not counted"):
        found.check_tables([table("a")])


# Reading back


def damaged(settings: Settings, backup: Backup, change: Callable[[bytes], bytes]) -> None:
    path = Path(settings.store_url.removeprefix("file://"), backup.key(DUMP))
    path.write_bytes(change(path.read_bytes()))


def flip(content: bytes, at: float = 0.5) -> bytes:
    place = int(len(content) * at)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, "was changed"),
        (lambda content: flip(content, 0.9999), "was changed"),
        (lambda content: content[:-1], r"its database\.dump\.zst has|is cut off"),
        (lambda content: content + b"x", r"its database\.dump\.zst has"),
        (lambda content: b"", r"its database\.dump\.zst has"),
    ],
    ids=["flipped", "flipped-end", "truncated", "longer", "emptied"],
)
def test_damage_is_found_and_named(
    settings: Settings, conn: Connection, change: Callable[[bytes], bytes], said: str
) -> None:
    deploy_graph(conn, settings, rows=50)
    backup = back_up(settings)
    damaged(settings, backup, change)
    with pytest.raises(IntegrityError, match=said):
        read_back(open_store(settings), backup, tools_for(backup.manifest.server.major, settings.home))


def test_a_swapped_archive_is_found(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings, rows=50)
    first = back_up(settings)
    conn.execute("UPDATE code_embeddings SET language = 'perl'")
    second = back_up(settings)
    store = Path(settings.store_url.removeprefix("file://"))
    (store / first.key(DUMP)).replace(store / second.key(DUMP))
    with pytest.raises(IntegrityError):
        read_back(open_store(settings), second, tools_for(second.manifest.server.major, settings.home))


def test_another_table_of_contents_is_found(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings, rows=50)
    backup = back_up(settings)
    toc = backup.manifest.toc.model_copy(update={"entries": 3})
    forged = Backup(manifest=backup.manifest.model_copy(update={"toc": toc}).sealed())
    store = open_store(settings)
    tools = tools_for(backup.manifest.server.major, settings.home)
    with pytest.raises(IntegrityError, match="is not the one that was written"):
        read_back(store, forged, tools)
    store.put(forged.key(MANIFEST), [forged.manifest.to_json()])
    with pytest.raises(IntegrityError, match="table of contents"):
        read_back(store, forged, tools)


# S3


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "backup-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-bucket")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    name = f"kg-{secrets.token_hex(4)}"  # moto keeps its buckets as long as the process
    boto3.Session().client("s3").create_bucket(Bucket=name)
    yield f"s3://{name}/prefix"
    server.stop()


def test_the_whole_way_on_s3(
    settings: Settings, conn: Connection, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    on_s3 = settings.model_copy(update={"store_url": bucket})
    deploy_graph(conn, settings, rows=1600)
    with caplog.at_level("DEBUG", logger="tasks"):
        backup = back_up(on_s3)
        assert backup.manifest.dump.stored_bytes > 8 << 20, "more than one part"
        read_back(open_store(on_s3), backup, tools_for(backup.manifest.server.major, settings.home))
        assert drill(on_s3, backup).ok
        assert find(open_store(on_s3), "dev").id == backup.id
        assert [decision.id for decision in prune(on_s3, apply=True).keep] == [backup.id]
    assert "a-secret-of-the-bucket" not in caplog.text


def test_a_pg_dump_that_fails_leaves_no_upload_on_s3(
    settings: Settings, conn: Connection, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_s3 = settings.model_copy(update={"store_url": bucket})
    deploy_graph(conn, settings, rows=1600)
    store = open_store(on_s3)
    put = store.put

    def watched(key: str, chunks: Iterable[bytes], **options: Any) -> Stored:
        def passing() -> Iterator[bytes]:
            passed, killed = 0, False
            for chunk in chunks:
                yield chunk
                passed += len(chunk)
                if passed > 9 << 20 and not killed:
                    killed = True
                    os.kill(the_pg_dump(), signal.SIGKILL)

        return put(key, passing(), **options)

    monkeypatch.setattr(store, "put", watched)
    monkeypatch.setattr(dump, "open_store", lambda _: store)
    with pytest.raises(CommandFailed, match="pg_dump ended with status -9"):
        back_up(on_s3)
    assert read_library(store, "dev").leftovers == ()
    assert list(store.list("")) == []
    assert list(store.unfinished("", datetime.now(UTC) + timedelta(days=1))) == []


def test_addresses_of_the_store_never_reach_a_manifest(settings: Settings, conn: Connection, database: Address) -> None:
    deploy_graph(conn, settings, rows=1)
    written = back_up(settings).manifest.to_json().decode()
    assert database.password
    assert database.password.get_secret_value() not in written
    assert database.host not in written
