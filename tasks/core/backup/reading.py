"""An archive's plain bytes out of the store, checked on the way: what was stored, and what it unpacks to."""

from __future__ import annotations

from collections.abc import Generator

from tasks.core.backup.manifest import DUMP, Backup
from tasks.core.errors import IntegrityError
from tasks.core.store.base import Reader, Store, Stored, Tally

CHUNK = 1 << 20  # bytes
_PACKED = 1 << 17  # bytes read at once from the store; what they unpack to comes in pieces of CHUNK


class _Counted:
    """A reader that counts and hashes what it hands on."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.tally = Tally()

    def read(self, size: int = -1, /) -> bytes:
        return self.tally.add(self._reader.read(size))

    def drain(self) -> Stored:
        while self.read(CHUNK):
            pass
        return self.tally.stored


def plain_chunks(store: Store, backup: Backup) -> Generator[bytes]:
    """The uncompressed archive; memory is constant. Whoever reads to the end knows that every byte is the manifest's.

    Raises IntegrityError, at the latest at the end, that names the object and what is wrong with it; StoreError.
    """
    import zstandard

    wanted, key = backup.manifest.dump, backup.key(DUMP)
    plain, damage = Tally(), ""
    with store.open(key) as reader:
        packed = _Counted(reader)
        unpacked = zstandard.ZstdDecompressor().stream_reader(packed, read_size=_PACKED)  # type: ignore[arg-type]
        try:
            while chunk := unpacked.read(CHUNK):
                yield plain.add(chunk)
        except zstandard.ZstdError as error:
            damage = str(error)
        stored = packed.drain()
    _compare(key, "stored", stored, Stored(wanted.stored_bytes, wanted.stored_sha256))
    if damage:
        raise IntegrityError(f"{key} does not unpack: {damage}")
    _compare(key, "unpacked", plain.stored, Stored(wanted.plain_bytes, wanted.plain_sha256))


def _compare(key: str, form: str, found: Stored, wanted: Stored) -> None:
    if found.size < wanted.size:
        raise IntegrityError(f"{key} is cut off: {found.size} of {wanted.size} {form} bytes are there")
    if found.size > wanted.size:
        raise IntegrityError(f"{key} has {found.size} {form} bytes, the manifest says {wanted.size}")
    if found.sha256 != wanted.sha256:
        raise IntegrityError(
            f"{key} was changed: its {form} bytes have SHA-256 {found.sha256[:16]}…, "
            f"the manifest says {wanted.sha256[:16]}…"
        )
