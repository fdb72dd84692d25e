"""What only a folder has, as a store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.core.errors import StoreError
from tasks.core.store.base import probe
from tasks.core.store.files import FileStore

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
