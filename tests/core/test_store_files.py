"""What only a folder has, as a store."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.core.errors import ObjectExists, StoreError
from tasks.core.store.base import probe
from tasks.core.store.files import FileStore
from tests.core.stores import far_future

KEY = "dev/20260101T000000Z-0123abcd/database.dump.zst"


def test_a_killed_upload_to_a_folder_is_unlisted_and_swept(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put(KEY, [b"whole"])
    leftover = (tmp_path / KEY).parent / f".manifest.json.{uuid4().hex}.part"
    leftover.write_bytes(b"half")
    assert [entry.key for entry in store.list("")] == [KEY]
    assert list(store.unfinished("dev/", datetime.now(UTC) - timedelta(days=1))) == []
    [name] = store.unfinished("dev/", datetime.now(UTC) + timedelta(days=1))
    store.discard(name)
    assert not leftover.exists()
    assert (tmp_path / KEY).exists()


def test_a_folder_is_closed_to_others_and_emptied_behind_us(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    store.put(KEY, [b"x"])
    assert (tmp_path / "store" / KEY).stat().st_mode & 0o077 == 0
    assert (tmp_path / "store" / "dev").stat().st_mode & 0o077 == 0
    store.delete(KEY)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_file_in_the_way_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(StoreError, match="could not write probe/"):
        probe(FileStore(tmp_path / "store"))


def test_a_folder_that_another_empties_meanwhile_is_made_again(tmp_path: Path) -> None:
    """A failing upload, or prune, removes the folder that it leaves empty: between our making it and our using it."""
    store, stop = FileStore(tmp_path), threading.Event()

    def fail() -> Iterator[bytes]:
        yield b"some"
        raise ZeroDivisionError

    def others() -> None:
        while not stop.is_set():
            with suppress(ZeroDivisionError):
                store.put("dev/a/failing", fail())

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for number in range(300):
            store.put("dev/a/ours", [str(number).encode()])
            store.delete("dev/a/ours")
    finally:
        stop.set()
        thread.join()
    assert list(store.list("")) == []


def test_a_broken_link_among_the_files_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="tasks")
    store = FileStore(tmp_path)
    store.put(KEY, [b"whole"])
    (tmp_path / KEY).with_name("stray").symlink_to(tmp_path / "nowhere")
    (tmp_path / KEY).with_name(f".gone.{uuid4().hex}.part").symlink_to(tmp_path / "nowhere")
    assert [entry.key for entry in store.list("dev/")] == [KEY]
    assert list(store.unfinished("dev/", far_future())) == []
    assert f"{tmp_path / KEY.rpartition('/')[0]}/stray is a broken link, and not ours" in caplog.text


def test_a_file_that_goes_while_it_is_listed_is_passed_over(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for name in ("a", "b", "c"):
        store.put(f"dev/{name}", [b"whole"])
    listed = []
    for entry in store.list("dev/"):
        listed.append(entry.key)
        store.delete("dev/b")
    assert listed == ["dev/a", "dev/c"]


def test_what_has_a_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut loses neither: the bytes are flushed before the name is given, the folder after it."""
    order: list[str] = []
    real = {"fsync": os.fsync, "link": os.link, "replace": Path.replace}

    def fsync(descriptor: int) -> None:
        order.append("flush folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "flush file")
        real["fsync"](descriptor)

    def named(way: str) -> Callable[..., object]:
        return lambda *words: (order.append("name"), real[way](*words))[1]

    store = FileStore(tmp_path)
    store.put(KEY, [b"before"])  # its folders are there, and flushed
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", named("link"))
    monkeypatch.setattr(Path, "replace", named("replace"))
    store.put(KEY, [b"after"])
    assert order == ["flush file", "name", "flush folder"]
    order.clear()
    store.put(KEY + ".new", [b"new"], only_if_absent=True)
    assert order == ["flush file", "name", "flush folder"]


@pytest.mark.parametrize(
    ("code", "hint"), [(errno.ENOENT, "no folder can be made"), (errno.EIO, "kernel's log"), (errno.ELOOP, "look at")]
)
def test_a_folder_that_cannot_be_made_has_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, hint: str
) -> None:
    """As /proc answers, a broken disk, and whatever nobody thought of."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match=f"could not write {KEY} to file://.*: {os.strerror(code)}") as caught:
        FileStore(tmp_path / "store").put(KEY, [b"x"])
    assert hint in (caught.value.hint or "")
    assert "KG_STORE_URL" in (caught.value.hint or "")


def test_a_file_system_without_links_is_said_and_still_refuses_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT, and some network file systems."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    store = FileStore(tmp_path)
    [lacking] = probe(store)
    assert "no hard links" in lacking
    store.put(KEY, [b"first"], only_if_absent=True)
    with pytest.raises(ObjectExists):
        store.put(KEY, [b"second"], only_if_absent=True)
    with store.open(KEY) as reader:
        assert reader.read() == b"first"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["database.dump.zst"]
