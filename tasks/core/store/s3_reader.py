"""An S3 object as a stream that survives a cut connection: it is opened again where it was cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from botocore import exceptions as boto

from tasks.core.errors import ObjectExists, StoreError, StoreUnavailable
from tasks.core.store.base import log
from tasks.core.store.s3_errors import s3_errors

if TYPE_CHECKING:
    from types_boto3_s3.type_defs import GetObjectOutputTypeDef

ATTEMPTS_WITHOUT_A_BYTE = 4


class ResumingReader:
    """`fetch` (offset, etag) opens the object from `offset`; with an etag, only that version of it."""

    def __init__(self, fetch: Callable[[int, str | None], GetObjectOutputTypeDef], doing: str, bucket: str) -> None:
        self._fetch, self._doing, self._bucket = fetch, doing, bucket
        with s3_errors(doing, bucket):
            answer = fetch(0, None)
        self._body, self._etag = answer["Body"], answer["ETag"]
        self._offset, self._size = 0, answer["ContentLength"]

    def read(self, size: int = -1, /) -> bytes:
        if size >= 0:
            return self._some(size)
        return b"".join(iter(lambda: self._some(1 << 20), b""))

    def close(self) -> None:
        self._body.close()

    def _some(self, size: int) -> bytes:
        """Up to `size` bytes; b"" only at the end."""
        wanted = min(size, self._size - self._offset)
        if wanted == 0:
            return b""
        for attempt in range(1, ATTEMPTS_WITHOUT_A_BYTE + 1):
            try:
                chunk = self._body.read(wanted)
            except (boto.HTTPClientError, boto.IncompleteReadError, boto.ResponseStreamingError) as error:
                log.debug("cut at byte %d of %d: %s", self._offset, self._size, error)
                chunk = b""
            if chunk:
                self._offset += len(chunk)
                return chunk
            if attempt < ATTEMPTS_WITHOUT_A_BYTE:
                self._reopen()
        raise StoreUnavailable(
            f"could not {self._doing}: cut off at byte {self._offset} of {self._size}, also after retries",
            hint="look at the network and the store, and run it again",
        )

    def _reopen(self) -> None:
        self._body.close()
        try:
            with s3_errors(self._doing, self._bucket):
                self._body = self._fetch(self._offset, self._etag)["Body"]
        except ObjectExists as error:  # the precondition is our etag
            raise StoreError(f"could not {self._doing}: it was replaced meanwhile", hint="run it again") from error
