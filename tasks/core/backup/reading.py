"""An archive's plain bytes out of the store, checked on the way: what was stored, and what it unpacks to."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from pydantic import SecretStr

from tasks.core.backup.encryption import DecryptionFailed, decrypted
from tasks.core.backup.manifest import Backup, StoredObject
from tasks.core.errors import IntegrityError, SettingsError
from tasks.core.store.base import Reader, Store, Stored, Tally

CHUNK = 1 << 20  # bytes
_NEEDED = "set KG_STORE_IDENTITY to the file with its identity, as age-keygen made it"
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


class _Joined:
    """An iterator of pieces as a reader."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def read(self, size: int = -1, /) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


def plain_chunks(
    store: Store, backup: Backup, identity: SecretStr | None = None, wanted: StoredObject | None = None
) -> Generator[bytes]:
    """The object `wanted` of the backup (None: its archive), decrypted and uncompressed; memory is constant. Whoever
    reads to the end knows that every byte is the manifest's.

    Raises IntegrityError, at the latest at the end, that names the object and what is wrong with it; StoreError;
    SettingsError where it is encrypted and `identity` is missing or another's.
    """
    import zstandard

    wanted = wanted or backup.manifest.dump
    key = backup.key(wanted.name)
    if wanted.age and identity is None:
        raise SettingsError(f"{key} is encrypted to {wanted.age}", hint=_NEEDED)
    plain, damage, wrong_key = Tally(), "", False
    with store.open(key) as reader:
        packed = _Counted(reader)
        pieces = iter(lambda: packed.read(_PACKED), b"")
        clear = _Joined(decrypted(pieces, identity)) if wanted.age and identity else packed
        unpacked = zstandard.ZstdDecompressor().stream_reader(clear, read_size=_PACKED)  # type: ignore[arg-type]
        try:
            while chunk := unpacked.read(CHUNK):
                yield plain.add(chunk)
        except zstandard.ZstdError as error:
            damage = f"does not unpack: {error}"
        except DecryptionFailed as error:
            damage, wrong_key = f"does not decrypt: {error}", error.wrong_key
        stored = packed.drain()
    _compare(key, "stored", stored, Stored(wanted.stored_bytes, wanted.stored_sha256))
    if wrong_key:  # the bytes are those that were written
        raise SettingsError(f"KG_STORE_IDENTITY does not fit {key}, which is encrypted to {wanted.age}", hint=_NEEDED)
    if damage:
        raise IntegrityError(f"{key} {damage}")
    _compare(key, "unpacked", plain.stored, Stored(wanted.plain_bytes, wanted.plain_sha256))


def check_stored(store: Store, backup: Backup, wanted: StoredObject) -> int:
    """Only that the stored bytes are the manifest's: all that can be said of an encrypted one without its identity, and
    of a text that is kept as it is. Their number.
    """
    key = backup.key(wanted.name)
    with store.open(key) as reader:
        stored = _Counted(reader).drain()
    _compare(key, "stored", stored, Stored(wanted.stored_bytes, wanted.stored_sha256))
    return stored.size


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
