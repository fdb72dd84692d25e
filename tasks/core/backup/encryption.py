"""Encryption with age before a byte leaves, and decryption where a backup is looked into; memory is constant.

The store never sees the plain dump. To write, the public recipient is enough; the identity is needed for drill and
restore only, and `age -d` does the same by hand.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import SettingsError

if TYPE_CHECKING:
    from pydantic import SecretStr

_NO_KEY_FITS = "no matching keys"


class DecryptionFailed(Exception):
    """The bytes are no age file, were changed, or (`wrong_key`) are meant for another identity."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.wrong_key = _NO_KEY_FITS in message.lower()


def check_recipient(key: str) -> str:
    """The key, when age can encrypt to it. Raises SettingsError."""
    import pyrage

    try:
        return str(pyrage.x25519.Recipient.from_str(key))
    except pyrage.RecipientError as error:
        raise SettingsError(
            "KG_STORE_KEY is no recipient of age", hint="put the public key in it, age1...: age-keygen prints it"
        ) from error


def check_identity(identity: SecretStr | None) -> None:
    """Raises SettingsError where it is set, and could decrypt nothing."""
    if identity is not None:
        _identities(identity.get_secret_value())


def encrypted(chunks: Iterable[bytes], key: str) -> Iterator[bytes]:
    import pyrage

    recipient = pyrage.x25519.Recipient.from_str(check_recipient(key))

    def work(source: Any, sink: Any) -> None:
        pyrage.encrypt_io(source, sink, [recipient])

    yield from _through(chunks, work)


def decrypted(chunks: Iterable[bytes], identity: SecretStr) -> Iterator[bytes]:
    """Raises DecryptionFailed, SettingsError for a malformed identity."""
    import pyrage

    own = _identities(identity.get_secret_value())

    def work(source: Any, sink: Any) -> None:
        try:
            pyrage.decrypt_io(source, sink, own)
        except (pyrage.DecryptError, OSError) as error:  # the latter for what is wrong after the header
            raise DecryptionFailed(str(error)) from None

    yield from _through(chunks, work)


def _identities(text: str) -> list[Any]:
    """Of a key, or of a file of them as age-keygen writes it."""
    import pyrage

    with suppress(OSError, UnicodeDecodeError, RuntimeError):  # the last where there is no such ~user
        text = text if text.startswith("AGE-SECRET-KEY-") else Path(text).expanduser().read_text(encoding="utf-8")
    keys = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        found = [pyrage.x25519.Identity.from_str(key) for key in keys]
    except pyrage.IdentityError:
        found = []
    if not found:
        raise SettingsError(
            "KG_STORE_IDENTITY is neither an identity of age nor a readable file with some",
            hint="put the path of age-keygen's file in it, or AGE-SECRET-KEY-1...",
        )
    return found


class _Stopped(Exception):
    """The other side has gone: ends the worker."""


class _Inbox:
    """What the worker reads: chunks from a short queue; None is the end."""

    def __init__(self) -> None:
        self.queue: queue.Queue[bytes | _Stopped | None] = queue.Queue(maxsize=2)
        self._rest = b""
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        if not self._rest and not self._ended:
            got = self.queue.get()
            if isinstance(got, _Stopped):
                raise got
            self._ended, self._rest = got is None, got or b""
        size = len(self._rest) if size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


class _Outbox:
    """What the worker writes, until it is fetched; no more than it makes of the few chunks in its inbox."""

    def __init__(self) -> None:
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def write(self, piece: bytes, /) -> int:
        self._pieces.put(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """There is nothing to flush."""

    def fetch(self) -> bytes:
        pieces = []
        with suppress(queue.Empty):
            while True:
                pieces.append(self._pieces.get_nowait())
        return b"".join(pieces)


def _through(chunks: Iterable[bytes], work: Callable[[_Inbox, _Outbox], None]) -> Iterator[bytes]:
    """`chunks` through `work`, which reads and writes in a thread of its own. The source stays in the caller's thread,
    so that what it raises (Ctrl-C, a failed pg_dump) arrives as it is.
    """
    inbox, outbox, failures = _Inbox(), _Outbox(), list[BaseException]()

    def run() -> None:
        try:
            work(inbox, outbox)
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True, name="age")
    worker.start()
    try:
        for chunk in chunks:
            if chunk and not _hand_over(inbox, chunk, worker):
                break
            if made := outbox.fetch():
                yield made
        _hand_over(inbox, None, worker)
        worker.join()
        if failures:
            raise failures[0]
        if made := outbox.fetch():
            yield made
    finally:
        _hand_over(inbox, _Stopped(), worker)


def _hand_over(inbox: _Inbox, what: bytes | _Stopped | None, worker: threading.Thread) -> bool:
    """False when the worker has ended and takes no more."""
    while worker.is_alive():
        with suppress(queue.Full):
            inbox.queue.put(what, timeout=0.1)
            return True
    return False
