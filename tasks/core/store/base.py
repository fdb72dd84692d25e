"""The place for backups, behind five verbs (put, open, list, delete, exists) and a sweep of what killed runs left.

A key is a relative path of plain names: "dev/20260101T000000Z-0123abcd/manifest.json". What is put becomes visible
under its key only when it is whole.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import uuid4

from tasks.core.errors import StoreError
from tasks.core.settings import Settings

log = logging.getLogger(__name__)

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_KEY = re.compile(rf"{_NAME}(?:/{_NAME})*")
_TEMPORARY = re.compile(r"(^|/)\.([^/]+)\.[0-9a-f]{32}\.part$")  # of a folder's store
_PREFIX = re.compile(rf"(?:{_NAME}(?:/{_NAME})*/?)?")


@dataclass(frozen=True)
class Stored:
    """What was put: bytes, and the SHA-256 (hex) of all of them."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One object as listed: size in bytes, time of its last change (UTC)."""

    key: str
    size: int
    modified: datetime


class Reader(Protocol):
    """An object being read; `read` returns b"" at its end."""

    def read(self, size: int = -1, /) -> bytes: ...


class Store(Protocol):
    """Every method raises StoreError with one clear line; `url` shows no secret."""

    @property
    def url(self) -> str: ...

    def put(
        self, key: str, chunks: Iterable[bytes], *, size_hint: int | None = None, only_if_absent: bool = False
    ) -> Stored:
        """Store what `chunks` yields, streamed. Whatever is raised, by `chunks` too, leaves nothing under `key` that
        was not there before. `size_hint` (bytes) is an upper estimate. `only_if_absent` raises ObjectExists where the
        key is taken (a store that cannot do this atomically says so in `shortcomings`).
        """

    def open(self, key: str) -> AbstractContextManager[Reader]:
        """Read an object as a stream. Raises ObjectMissing."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every whole object whose key begins with `prefix`, by key."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def exists(self, key: str) -> bool: ...

    def locked_until(self, key: str) -> datetime | None:
        """Until when the store itself lets nobody delete it for good; None where nothing locks it, or it is missing."""

    def unfinished(self, prefix: str, before: datetime) -> Iterator[str]:
        """Uploads under `prefix` that were begun before that time and never ended, each with a name to `discard`."""

    def discard(self, name: str) -> None:
        """Remove an unfinished upload."""

    def shortcomings(self, key: str) -> tuple[str, ...]:
        """What this store cannot do that backups would use, tried with scratch object `key`; empty for a full one."""


@dataclass
class Tally:
    """Counts and hashes bytes as they pass."""

    size: int = 0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256, repr=False)

    def add(self, chunk: bytes) -> bytes:
        self.size += len(chunk)
        self._digest.update(chunk)
        return chunk

    @property
    def stored(self) -> Stored:
        return Stored(self.size, self._digest.hexdigest())


def check_key(key: str) -> str:
    """`key`, when it cannot lead out of the store. Raises StoreError."""
    if len(key) > 900 or not _KEY.fullmatch(key):
        raise StoreError(f"{key!r} is not a key of a store", hint="plain names separated by /, none of them . or ..")
    return key


def meant_key(unfinished: str) -> str:
    """The key that an unfinished upload was to have."""
    return _TEMPORARY.sub(r"\1\2", unfinished.partition("?")[0])


def printable(name: str) -> str:
    """Of others' names, which may hold anything: on one line, without a terminal's commands, in every encoding."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)


def check_prefix(prefix: str) -> str:
    if not _PREFIX.fullmatch(prefix):
        raise StoreError(f"{prefix!r} is not the beginning of a store's keys")
    return prefix


def open_store(settings: Settings) -> Store:
    """The store that KG_STORE_URL names. Nothing is asked of it yet."""
    if settings.store_url.startswith("s3://"):
        from tasks.core.store.s3 import S3Store  # boto3 costs a third of a second

        return S3Store.from_environment(settings.store_url, stall_timeout=settings.backup.stall_timeout)
    from tasks.core.store.files import FileStore

    return FileStore.from_url(settings.store_url)


def probe(store: Store) -> tuple[str, ...]:
    """Write, list, read back and delete a small object; what the store lacks, one line each.

    Raises StoreError where it cannot be written or read.
    """
    key = f"probe/{uuid4().hex}"
    content = uuid4().bytes
    store.put(key, [content])
    try:
        with store.open(key) as reader:
            found = reader.read()
        listed = [entry.size for entry in store.list(key)]
        lacking = store.shortcomings(key)
    finally:
        store.delete(key)
    if found != content or listed != [len(content)]:
        raise StoreError(
            f"{store.url} does not give back what was just written to it",
            hint="backups need a store whose reads and lists see each finished write",
        )
    return lacking
