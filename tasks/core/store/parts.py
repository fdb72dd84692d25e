"""Multipart uploads: how large a part is, and a few parts in flight at once, whatever the object's size."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tasks.core.errors import StoreError, StoreUnavailable

log = logging.getLogger(__name__)

MIB = 1 << 20
SMALLEST_PART = 8 * MIB
LARGEST_PART = 5 * 1024 * MIB
MOST_PARTS = 10_000
LARGEST_OBJECT = MOST_PARTS * LARGEST_PART  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MEMORY = 32 * MIB  # of all parts in flight, of all uploads together; each may have one, however large
EQUAL_PARTS = 8_000
GROWTH = 8


def part_size(size_hint: int | None, number: int) -> int:
    """Bytes of part `number` (from 1) of an object of at most about `size_hint` bytes.

    The first 8,000 parts are equal and hold the hint by themselves; the last 2,000 are eight times as large, so that an
    object of three times its hint still fits. Without a hint: 187 GiB.
    """
    needed = -(-(size_hint or 0) // EQUAL_PARTS)
    base = max(SMALLEST_PART, -(-needed // MIB) * MIB)
    return min(LARGEST_PART, base if number <= EQUAL_PARTS else base * GROWTH)


def parts(chunks: Iterable[bytes], size_hint: int | None) -> Iterator[bytes]:
    """`chunks` cut anew into parts; the last, or only, one may be of any size, also empty."""
    number, pending = 1, bytearray()
    for chunk in chunks:
        pending += chunk
        while len(pending) > (size := part_size(size_hint, number)):
            yield bytes(memoryview(pending)[:size])
            del pending[:size]
            number += 1
            if number > MOST_PARTS:
                raise StoreError(
                    f"more than {MOST_PARTS} parts of an estimated {size_hint} bytes: the estimate was wrong"
                )
    yield bytes(pending)


def sha256_header(content: bytes) -> str:
    """The value of x-amz-checksum-sha256."""
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


class _Cancelled(BaseException):
    """Ends a part under way; not an Exception, so that no retry of botocore catches it."""


@dataclass(frozen=True)
class Part:
    """One uploaded part, as completing the upload wants it."""

    number: int
    etag: str
    sha256: str


class Body(io.BytesIO):
    """A part's bytes; each read shows that the upload moves, and ends it when it was cancelled."""

    def __init__(self, content: bytes, uploads: Uploads) -> None:
        super().__init__(content)
        self._uploads = uploads

    def read(self, size: int | None = -1, /) -> bytes:
        self._uploads.check_cancelled()
        self._uploads.moved = time.monotonic()
        return super().read(size)


class Uploads:
    """Parts in flight, each in a daemon thread of its own: a stalled one keeps no process from ending.

    All uploads of the process share the memory: rows of large tables go up beside the dump, several at once.
    """

    _changed = threading.Condition()
    _memory = 0

    def __init__(self, send: Callable[[int, Body, str], str], stall_seconds: float) -> None:
        """`send` (number, body, sha256 header) uploads one part and returns its ETag."""
        self._send, self._stall_seconds = send, stall_seconds
        self._flying: dict[int, int] = {}
        self._done: list[Part] = []
        self._error: BaseException | None = None
        self._cancelled = False
        self.moved = time.monotonic()

    def add(self, number: int, content: bytes) -> None:
        """Start part `number` once there is room for it; raises what an earlier part failed with."""
        with self._changed:
            self._wait(lambda: not self._flying or Uploads._memory + len(content) <= MEMORY)
            self._flying[number] = len(content)
            Uploads._memory += len(content)
        threading.Thread(target=self._fly, args=(number, content), daemon=True, name=f"part-{number}").start()

    def finish(self) -> list[Part]:
        """Wait for all parts; they come back in order."""
        self._wait(lambda: not self._flying)
        return sorted(self._done, key=lambda part: part.number)

    def cancel(self, patience: float = 5.0) -> None:
        """Stop all parts and wait a little for them, so that none lands after the upload was aborted."""
        self._cancelled = True
        with self._changed:
            self._changed.wait_for(lambda: not self._flying, timeout=patience)

    def check_cancelled(self) -> None:
        if self._cancelled:
            raise _Cancelled

    def _fly(self, number: int, content: bytes) -> None:
        try:
            digest = sha256_header(content)
            etag = self._send(number, Body(content, self), digest)
        except BaseException as error:
            self._land(number, None, error)
        else:
            self._land(number, Part(number, etag, digest), None)

    def _land(self, number: int, part: Part | None, error: BaseException | None) -> None:
        with self._changed:
            Uploads._memory -= self._flying.pop(number)
            if part:
                self._done.append(part)
            self._error = self._error or error
            self.moved = time.monotonic()
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            self.moved = max(self.moved, time.monotonic() - 1) if not self._flying else self.moved
            while not self._error and not ready():
                self._changed.wait(timeout=1)
                if time.monotonic() - self.moved > self._stall_seconds:
                    raise StoreUnavailable(
                        f"the upload moved nothing for {self._stall_seconds:.0f} s and was ended",
                        hint="look at the network and the store; backup.stall_timeout sets how long is waited",
                    )
            if self._error:
                raise self._error
