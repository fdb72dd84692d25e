"""Parts of an upload: enough of them for the largest object, few at once, and an end to what stalls."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import StoreError
from tasks.core.store import parts as parts_module
from tasks.core.store.parts import (
    LARGEST_OBJECT,
    LARGEST_PART,
    MIB,
    MOST_PARTS,
    SMALLEST_PART,
    Uploads,
    part_size,
    parts,
)


def capacity(hint: int | None) -> int:
    """Bytes of all parts: they have two sizes only."""
    early = part_size(hint, 1) * parts_module.EQUAL_PARTS
    return early + part_size(hint, MOST_PARTS) * (MOST_PARTS - parts_module.EQUAL_PARTS)


@given(st.integers(min_value=0, max_value=LARGEST_OBJECT))
def test_ten_thousand_parts_suffice_up_to_the_largest_object(hint: int) -> None:
    assert capacity(hint) >= (3 * hint if hint < 5 * 10**12 else hint)
    assert SMALLEST_PART <= part_size(hint, 1) <= part_size(hint, MOST_PARTS) <= LARGEST_PART


def test_parts_at_the_edges() -> None:
    assert capacity(LARGEST_OBJECT) == LARGEST_OBJECT
    assert capacity(None) > 180 << 30
    assert part_size(5 << 30, 1) == SMALLEST_PART
    assert part_size(5 << 40, 1) < 700 * MIB


@given(st.lists(st.integers(min_value=0, max_value=5), max_size=12), st.integers(min_value=1, max_value=4))
def test_parts_hold_every_byte_in_order(sizes: list[int], part: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_module, "SMALLEST_PART", part)
        patch.setattr(parts_module, "MIB", 1)
        chunks = [os.urandom(size) for size in sizes]
        cut = list(parts(chunks, None))
    assert b"".join(cut) == b"".join(chunks)
    assert all(len(piece) == part for piece in cut[:-1])
    assert cut[-1] or len(cut) == 1


@pytest.mark.parametrize("together", [1, 3])
def test_no_more_than_a_few_parts_fly_at_once(together: int) -> None:
    flying, most, lock = 0, 0, threading.Lock()

    def send(number: int, body: parts_module.Body, digest: str) -> str:
        nonlocal flying, most
        with lock:
            flying, most = flying + 1, max(most, flying + 1)
        time.sleep(0.002)
        body.read()
        with lock:
            flying -= 1
        return str(number)

    def upload(_: int) -> list[int]:
        uploads = Uploads(send, stall_seconds=5)
        for number in range(1, 41):
            uploads.add(number, bytes(SMALLEST_PART))
        return [part.number for part in uploads.finish()]

    with ThreadPoolExecutor(together) as pool:
        assert list(pool.map(upload, range(together))) == [list(range(1, 41))] * together
    assert 1 < most < parts_module.MEMORY // SMALLEST_PART + together, "each may have one more than there is room for"


def test_a_stalled_upload_is_ended() -> None:
    release = threading.Event()
    uploads = Uploads(lambda number, body, digest: str(release.wait(20)), stall_seconds=1)
    uploads.add(1, b"x")
    with pytest.raises(StoreError, match="moved nothing for 1 s"):
        uploads.finish()
    started = time.monotonic()
    uploads.cancel(patience=0.2)
    assert time.monotonic() - started < 2
    release.set()


def test_a_slow_source_is_no_stall() -> None:
    uploads = Uploads(lambda number, body, digest: "etag", stall_seconds=1)
    uploads.add(1, b"x")
    time.sleep(2.5)
    uploads.add(2, b"y")
    assert len(uploads.finish()) == 2
