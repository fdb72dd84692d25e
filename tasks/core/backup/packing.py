"""Bytes on their way into the store: counted, compressed, encrypted, put; and what the manifest says of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tasks.core.backup.encryption import encrypted
from tasks.core.backup.manifest import StoredObject
from tasks.core.backup.pace import Pace
from tasks.core.errors import StoreError
from tasks.core.progress import note
from tasks.core.store.base import Store, Tally


@dataclass
class Packer:
    """Puts objects into `folder` of the store; `recipient` is age's, empty for none. `names` are those it has begun.

    Threads may share one.
    """

    store: Store
    folder: str
    pace: Pace
    recipient: str = ""
    names: list[str] = field(default_factory=list)

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

    def undo(self, names: Iterable[str] = ()) -> None:
        """Delete what was put, and `names`, as far as the store lets us."""
        for name in (*names, *self.names):
            try:
                self.store.delete(f"{self.folder}/{name}")
            except StoreError as left:
                note(f"{self.folder}/{name} may be left behind, and prune sweeps it: {left.message}")

    def _put(
        self, name: str, chunks: Iterable[bytes], plain: Tally, size_hint: int | None, recipient: str
    ) -> StoredObject:
        self.names.append(name)
        stored = self.store.put(f"{self.folder}/{name}", chunks, size_hint=size_hint)
        return StoredObject(
            name=name,
            age=recipient,
            plain_bytes=plain.stored.size,
            plain_sha256=plain.stored.sha256,
            stored_bytes=stored.size,
            stored_sha256=stored.sha256,
        )
