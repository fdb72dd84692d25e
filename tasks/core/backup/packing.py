"""Bytes on their way into the store: counted, compressed, encrypted, put; and what the manifest says of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tasks.core.backup.encryption import encrypted
from tasks.core.backup.manifest import MANIFEST, StoredObject
from tasks.core.backup.pace import Pace
from tasks.core.errors import ObjectExists, StoreError, StoreUnavailable
from tasks.core.progress import note
from tasks.core.store.base import Store, Stored, Tally


@dataclass
class Packer:
    """Puts objects into `folder` of the store; `recipient` is age's, empty for none. `names` are those it has begun,
    `refused` those of them that the store did not take. Threads may share one.
    """

    store: Store
    folder: str
    pace: Pace
    recipient: str = ""
    names: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def put_packed(self, name: str, chunks: Iterable[bytes], *, size_hint: int | None = None) -> StoredObject:
        """`chunks` through zstd (and age: then the name ends in .age). Raises what `chunks` and the store raise."""
        plain = Tally()
        packed = self.pace.compressed(plain.add(chunk) for chunk in chunks)
        if self.recipient:
            packed, name = encrypted(packed, self.recipient), f"{name}.age"
        return self._put(name, packed, plain, size_hint, self.recipient)

    def put_text(self, name: str, text: str) -> StoredObject:
        """As it is: what is no secret, and is to be read without a tool."""
        plain = Tally()
        return self._put(name, [plain.add(text.encode())], plain, None, "")

    def put_manifest(self, content: bytes) -> None:
        """The last, which makes it a backup. Raises ObjectExists where another was first: then all there is that one's,
        and nothing of it is undone.
        """
        self.names.append(MANIFEST)
        try:
            self._store(MANIFEST, [content], only_if_absent=True)
        except ObjectExists:
            self.names.clear()
            raise

    def undo(self) -> None:
        """Delete what was put, the last first, as far as the store lets us."""
        for name in reversed(self.names):
            try:
                self.store.delete(f"{self.folder}/{name}")
            except StoreError as left:
                if name not in self.refused:
                    note(f"{self.folder}/{name} may be left behind, and prune sweeps it: {left.message}")

    def _store(self, name: str, chunks: Iterable[bytes], **options: Any) -> Stored:
        try:
            return self.store.put(f"{self.folder}/{name}", chunks, **options)
        except StoreError as error:
            if not isinstance(error, StoreUnavailable):
                self.refused.append(name)
            raise

    def _put(
        self, name: str, chunks: Iterable[bytes], plain: Tally, size_hint: int | None, recipient: str
    ) -> StoredObject:
        self.names.append(name)
        stored = self._store(name, chunks, size_hint=size_hint)
        return StoredObject(
            name=name,
            age=recipient,
            plain_bytes=plain.stored.size,
            plain_sha256=plain.stored.sha256,
            stored_bytes=stored.size,
            stored_sha256=stored.sha256,
        )
