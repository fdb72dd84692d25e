"""Backups that fail, or are damaged: nothing half-made stays, and nothing bad passes for good."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.core.addresses import Address
from tasks.core.backup import dump
from tasks.core.backup.contents import Table
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import backups
from tasks.core.backup.manifest import DUMP, GLOBALS, MANIFEST, Backup
from tasks.core.backup.pace import Pace
from tasks.core.backup.packing import Packer
from tasks.core.backup.readback import read_back, verify_backups
from tasks.core.backup.retention import prune
from tasks.core.backup.toc import Contents
from tasks.core.errors import (
    BackupError,
    CommandFailed,
    IntegrityError,
    ObjectExists,
    StoreError,
)
from tasks.core.postgres.connections import Connection
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import Settings
from tasks.core.store.base import Store, Stored, open_store
from tasks.core.store.files import FileStore
from tests.integration.graphs import deploy_graph, files, the_pg_dump, with_section

pytestmark = pytest.mark.slow

SECOND = timedelta(seconds=1)


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
    left, roles = files(settings)
    assert left.endswith(DUMP)
    assert roles.endswith(GLOBALS)
    assert backups(open_store(settings), "dev") == ()
    proved = drill(settings, back_up(settings))
    assert prune(settings, apply=True).sweep == ()
    long_ago = time.time() - 2 * 86400
    for each in (left, roles):
        os.utime(Path(settings.store_url.removeprefix("file://"), each), (long_ago, long_ago))
    [swept] = prune(settings, apply=True).sweep
    assert left.startswith(f"dev/{swept.id}/")
    assert not {left, roles} & set(files(settings))
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


def test_addresses_of_the_store_never_reach_a_manifest(settings: Settings, conn: Connection, database: Address) -> None:
    deploy_graph(conn, settings, rows=1)
    written = back_up(settings).manifest.to_json().decode()
    assert database.password
    assert database.password.get_secret_value() not in written
    assert database.host not in written


def test_two_runs_cannot_claim_one_backup(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two with one id the first keeps it, with every byte; also where the other saw nothing there when it began."""
    conn.execute("CREATE TABLE t AS SELECT 1 AS id")
    first = back_up(settings)
    monkeypatch.setattr(dump, "new_id", lambda _: first.id)
    conn.execute("INSERT INTO t VALUES (2)")
    with pytest.raises(ObjectExists, match=first.id):
        back_up(settings)
    assert verify_backups(settings).ok
    late = Packer(open_store(settings), first.manifest.folder, Pace(1))
    late.put_text(GLOBALS, "of the other")
    with pytest.raises(ObjectExists):
        late.put_manifest(b"of the other")
    there = files(settings)
    late.undo()
    assert files(settings) == there, "what lies there is the first one's"
