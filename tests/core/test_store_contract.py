"""All stores keep one contract: see stores.py."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tasks.core.errors import ObjectExists, ObjectMissing, StoreError
from tasks.core.store.base import Store, probe
from tasks.core.store.parts import (
    MIB,
)
from tests.core.stores import (
    KEY,
    bucket,
    container_endpoint,
    content,
    endpoint,
    far_future,
    in_container,
    moto,
    on_seaweed,
    seaweed_endpoint,
    store,
)

# Fixtures.
__all__ = ["bucket", "container_endpoint", "endpoint", "in_container", "moto", "on_seaweed", "seaweed_endpoint"]
__all__ += ["store"]


def test_what_is_put_is_read_back_listed_and_deleted(store: Store) -> None:
    stored = store.put(KEY, [b"one ", b"", b"two"])
    assert (stored.size, stored.sha256) == (7, hashlib.sha256(b"one two").hexdigest())
    assert content(store, KEY) == b"one two"
    assert store.exists(KEY)
    [entry] = store.list("dev/")
    assert (entry.key, entry.size) == (KEY, 7)
    assert abs(datetime.now(UTC) - entry.modified) < timedelta(minutes=5)
    store.delete(KEY)
    store.delete(KEY)
    assert not store.exists(KEY)
    assert list(store.list("")) == []


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.put(KEY, [])
    assert content(store, KEY) == b""


def test_a_large_object_is_streamed_both_ways(store: Store) -> None:
    block = os.urandom(MIB)
    stored = store.put(KEY, (block for _ in range(20)), size_hint=20 * MIB)
    digest = hashlib.sha256()
    with store.open(KEY) as reader:
        while chunk := reader.read(100_000):
            assert len(chunk) <= 100_000
            digest.update(chunk)
    assert digest.hexdigest() == stored.sha256 == hashlib.sha256(block * 20).hexdigest()


@pytest.mark.parametrize("blocks", [1, 20], ids=["small", "multipart"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_source_that_fails_leaves_nothing(store: Store, blocks: int, error: type[BaseException]) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(blocks):
            yield bytes(MIB)
        raise error("the source broke")

    with pytest.raises(error):
        store.put(KEY, chunks())
    assert not store.exists(KEY)
    assert list(store.list("")) == []
    assert list(store.unfinished("", far_future())) == []


def test_a_failed_replacement_keeps_the_old_object(store: Store) -> None:
    store.put(KEY, [b"old"])

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.put(KEY, chunks())
    assert content(store, KEY) == b"old"


def test_an_object_is_seen_only_when_whole(store: Store) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(12):
            yield bytes(MIB)
            assert not store.exists(KEY)
            assert list(store.list("")) == []

    store.put(KEY, chunks())
    assert store.exists(KEY)


def test_only_if_absent_refuses_a_taken_key(store: Store) -> None:
    store.put(KEY, [b"first"], only_if_absent=True)
    with pytest.raises(ObjectExists):
        store.put(KEY, [b"second"], only_if_absent=True)
    assert content(store, KEY) == b"first"


def test_a_missing_object_is_said_so(store: Store) -> None:
    with pytest.raises(ObjectMissing), store.open(KEY):
        pass


def test_list_is_sorted_and_by_prefix(store: Store) -> None:
    for key in ("dev/b/x", "dev/a/y", "staging/a/x", "dev2/a"):
        store.put(key, [b"."])
    assert [entry.key for entry in store.list("dev/")] == ["dev/a/y", "dev/b/x"]
    assert [entry.key for entry in store.list("dev/a")] == ["dev/a/y"]
    assert [entry.key for entry in store.list("nothing/")] == []


@pytest.mark.parametrize(
    "key", ["../x", "a/../b", "/etc/passwd", "a//b", "", ".", "a/", ".hidden", "a\\b", "a\nb", "é"]
)
def test_keys_that_lead_elsewhere_are_refused(store: Store, key: str) -> None:
    for use in (lambda: store.put(key, [b""]), lambda: store.delete(key), lambda: store.exists(key)):
        with pytest.raises(StoreError, match="is not a key"):
            use()
    with pytest.raises(StoreError, match="is not a key"), store.open(key):
        pass


def test_the_probe_leaves_nothing_and_these_stores_lack_nothing(store: Store) -> None:
    assert probe(store) == ()
    assert list(store.list("")) == []


def test_two_writers_of_one_key_leave_one_whole_object(store: Store) -> None:
    bodies = [bytes([number]) * (9 * MIB) for number in range(2)]
    threads = [threading.Thread(target=store.put, args=(KEY, [body])) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(store, KEY) in bodies
