"""A bucket as the store: s3://bucket/prefix, on AWS or any endpoint that speaks S3.

Who and where come from boto3's own AWS_* variables (AWS_ENDPOINT_URL_S3 too); how objects are kept from KG_STORE_*:
    KG_STORE_SSE            AES256, aws:kms, or aws:kms:<key id>
    KG_STORE_STORAGE_CLASS  for example STANDARD_IA
    KG_STORE_BUCKET_OWNER   account id; another owner's bucket is refused by S3
    KG_STORE_LOCK           GOVERNANCE:<days> or COMPLIANCE:<days>: object lock, so long from the writing on
    KG_STORE_ADDRESSING     path or virtual, where boto3's own choice is wrong for an endpoint
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

import boto3
from botocore.config import Config

from tasks.core.errors import ObjectExists, ObjectMissing, SettingsError, StoreError
from tasks.core.store.base import Entry, Reader, Stored, Tally, check_key, check_prefix, log
from tasks.core.store.parts import Body, Part, Uploads, parts, sha256_header
from tasks.core.store.s3_errors import check_listing, s3_errors
from tasks.core.store.s3_reader import ResumingReader

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef, GetObjectOutputTypeDef


_LONGEST_LOCK = 36_500  # days
LOCKED = ("manifest.json", ".zst", ".zst.age", ".sql")  # a proof is written again by each drill


@dataclass
class S3Store:
    """Objects under `prefix` of `bucket`. The client is thread-safe, and made by from_environment."""

    client: S3Client = field(repr=False)
    bucket: str
    prefix: str
    stall_timeout: timedelta
    owner: dict[str, Any] = field(default_factory=dict)
    keeping: dict[str, Any] = field(default_factory=dict)
    lock: tuple[str, timedelta] | None = None

    @classmethod
    def from_environment(
        cls, url: str, *, stall_timeout: timedelta, variables: Mapping[str, str] | None = None
    ) -> S3Store:
        """Raises SettingsError for a malformed URL or variable."""
        env = os.environ if variables is None else variables
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise SettingsError("KG_STORE_URL names no bucket", hint="put s3://bucket/prefix in it")
        owner = env.get("KG_STORE_BUCKET_OWNER")
        return cls(
            client=_client(env.get("KG_STORE_ADDRESSING") or "auto", stall_timeout),
            bucket=bucket,
            prefix=_own_prefix(prefix.strip("/")),
            stall_timeout=stall_timeout,
            owner={"ExpectedBucketOwner": owner} if owner else {},
            keeping=_keeping(env),
            lock=_lock(env),
        )

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def put(
        self, key: str, chunks: Iterable[bytes], *, size_hint: int | None = None, only_if_absent: bool = False
    ) -> Stored:
        tally = Tally()
        pieces = parts((tally.add(chunk) for chunk in chunks), size_hint)
        first = next(pieces)
        second = next(pieces, None)
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        if second is None:
            self._put_whole(key, first, condition)
        else:
            self._put_parts(key, _chain(first, second, pieces), condition)
        return tally.stored

    @contextmanager
    def open(self, key: str) -> Iterator[Reader]:
        reader = ResumingReader(self._fetch(key), f"read {key} of {self.url}", self.bucket)
        try:
            yield reader
        finally:
            reader.close()

    def list(self, prefix: str) -> Iterator[Entry]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + check_prefix(prefix), **self.owner
        )
        doing = f"list {self.url}"
        with s3_errors(doing, self.bucket):
            for page in pages:
                check_listing(page, doing)
                for found in page.get("Contents", []):
                    yield Entry(found["Key"].removeprefix(self.prefix), found["Size"], found["LastModified"])

    def delete(self, key: str) -> None:
        with s3_errors(f"delete {key} of {self.url}", self.bucket):
            self.client.delete_object(**self._object(key))

    def exists(self, key: str) -> bool:
        try:
            with s3_errors(f"look for {key} in {self.url}", self.bucket):
                self.client.head_object(**self._object(key))
        except ObjectMissing:
            return False
        return True

    def locked_until(self, key: str) -> datetime | None:
        """Raises StoreError; the answer to HEAD has it, for who may ask for an object's retention."""
        try:
            with s3_errors(f"look for {key} in {self.url}", self.bucket):
                found = self.client.head_object(**self._object(key))
        except ObjectMissing:
            return None
        if found.get("ObjectLockLegalHoldStatus") == "ON":
            return datetime.max.replace(tzinfo=UTC)
        return found.get("ObjectLockRetainUntilDate")

    def unfinished(self, prefix: str, before: datetime) -> Iterator[str]:
        pages = self.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.bucket, Prefix=self.prefix + check_prefix(prefix), **self.owner
        )
        doing = f"list the unfinished uploads of {self.url}"
        with s3_errors(doing, self.bucket):
            for page in pages:
                check_listing(page, doing)
                for found in page.get("Uploads", []):
                    if found["Initiated"] < before:
                        yield f"{found['Key'].removeprefix(self.prefix)}?uploadId={found['UploadId']}"

    def discard(self, name: str) -> None:
        key, _, upload = name.partition("?uploadId=")
        with s3_errors(f"abort the upload of {key} to {self.url}", self.bucket):
            self.client.abort_multipart_upload(**self._object(key), UploadId=upload)

    def shortcomings(self, key: str) -> tuple[str, ...]:
        lacking = []
        with s3_errors(f"write {key} to {self.url}", self.bucket):
            answer = self.client.put_object(
                **self._object(key), Body=b"1", ChecksumAlgorithm="SHA256", ChecksumSHA256=sha256_header(b"1")
            )
        if answer.get("ChecksumSHA256") != sha256_header(b"1"):
            lacking.append("the store keeps no SHA-256 of what it is sent; only reading back finds damage")
        try:
            self.put(key, [b"2"], only_if_absent=True)
            lacking.append("the store ignores conditional writes; two runs with one id would not be noticed")
        except ObjectExists:
            pass
        return tuple(lacking)

    def _object(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": self.prefix + check_key(key), **self.owner}

    def _kept(self, key: str) -> dict[str, Any]:
        """How the object is to be kept. Only what makes a backup is locked: a probe must be deletable, a mark too."""
        if self.lock is None or not key.endswith(LOCKED):
            return self.keeping
        until = datetime.now(UTC) + self.lock[1]
        return {**self.keeping, "ObjectLockMode": self.lock[0], "ObjectLockRetainUntilDate": until}

    def _put_whole(self, key: str, content: bytes, condition: dict[str, Any]) -> None:
        checksum: dict[str, Any] = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": sha256_header(content)}
        try:
            with s3_errors(f"write {key} to {self.url}", self.bucket):
                self.client.put_object(**self._object(key), Body=content, **checksum, **self._kept(key), **condition)
        except ObjectExists:
            self._accept_own(key, content)

    def _accept_own(self, key: str, content: bytes) -> None:
        """A repeated request finds what the first, whose answer was lost, has put: that is no other's object."""
        with self.open(key) as reader:
            if reader.read(len(content) + 1) != content:
                raise ObjectExists(f"{key} already exists in {self.url}")

    def _put_parts(self, key: str, pieces: Iterable[bytes], condition: dict[str, Any]) -> None:
        target, doing = self._object(key), f"write {key} to {self.url}"
        with s3_errors(doing, self.bucket):
            begun = self.client.create_multipart_upload(**target, ChecksumAlgorithm="SHA256", **self._kept(key))
        upload = {**target, "UploadId": begun["UploadId"]}

        def send(number: int, body: Body, digest: str) -> str:
            answer = self.client.upload_part(
                **upload, PartNumber=number, Body=body, ChecksumAlgorithm="SHA256", ChecksumSHA256=digest
            )
            return answer["ETag"]

        flying = Uploads(send, self.stall_timeout.total_seconds())
        try:
            with s3_errors(doing, self.bucket):
                for number, piece in enumerate(pieces, start=1):
                    flying.add(number, piece)
                done = [_completed(part) for part in flying.finish()]
                self.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": done}, **condition)
        except BaseException:
            flying.cancel()
            self._abort(upload)
            raise

    def _abort(self, upload: dict[str, Any]) -> None:
        """Best effort while another error is on its way; what stays is swept by prune."""
        try:
            with s3_errors("abort an upload", self.bucket):
                self.client.abort_multipart_upload(**upload)
        except ObjectMissing:
            return  # it was completed, or aborted already, and the answer was lost
        except StoreError as error:
            log.warning("the unfinished upload of %s stays until prune sweeps it: %s", upload["Key"], error)

    def _fetch(self, key: str) -> Callable[[int, str | None], GetObjectOutputTypeDef]:
        """A function that opens the object from an offset on, the same version each time."""
        target = self._object(key)

        def fetch(offset: int, etag: str | None) -> GetObjectOutputTypeDef:
            since: dict[str, Any] = {"Range": f"bytes={offset}-", "IfMatch": etag} if etag else {}
            return self.client.get_object(**target, **since)

        return fetch


def _client(addressing: str, stall_timeout: timedelta) -> S3Client:
    if addressing not in ("auto", "path", "virtual"):
        raise SettingsError(
            "KG_STORE_ADDRESSING is neither path nor virtual", hint="leave it out for boto3's own choice"
        )
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 5},
        connect_timeout=10,
        read_timeout=min(60.0, stall_timeout.total_seconds()),
        max_pool_connections=16,
        s3={"addressing_style": cast(Literal["auto", "path", "virtual"], addressing)},
        # Checksums are sent as headers of ours: the trailers that botocore would add are unknown to many servers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with s3_errors("set up the S3 client", ""):
        return boto3.Session().client("s3", config=config)  # the default session would keep old credentials


def _keeping(env: Mapping[str, str]) -> dict[str, Any]:
    """Arguments that say how an object is kept. Raises SettingsError."""
    found: dict[str, Any] = {}
    encryption, storage_class = env.get("KG_STORE_SSE", ""), env.get("KG_STORE_STORAGE_CLASS", "")
    if encryption == "AES256":
        found["ServerSideEncryption"] = encryption
    elif encryption == "aws:kms" or encryption.startswith("aws:kms:"):
        found["ServerSideEncryption"] = "aws:kms"
        if key := encryption.removeprefix("aws:kms").lstrip(":"):
            found["SSEKMSKeyId"] = key
    elif encryption:
        raise SettingsError("KG_STORE_SSE is no encryption of S3", hint="put AES256, aws:kms or aws:kms:<key id> in it")
    if storage_class:
        found["StorageClass"] = storage_class
    return found


def _lock(env: Mapping[str, str]) -> tuple[str, timedelta] | None:
    """The object lock's mode and length. Raises SettingsError."""
    mode, _, days = env.get("KG_STORE_LOCK", "").partition(":")
    if not mode:
        return None
    if mode not in ("GOVERNANCE", "COMPLIANCE") or not (days.isdecimal() and 0 < int(days) <= _LONGEST_LOCK):
        raise SettingsError(
            "KG_STORE_LOCK is no object lock",
            hint=f"put GOVERNANCE:<days> or COMPLIANCE:<days> in it (1 to {_LONGEST_LOCK}), or leave it out",
        )
    return mode, timedelta(days=int(days))


def _chain(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest


def _completed(part: Part) -> CompletedPartTypeDef:
    return {"PartNumber": part.number, "ETag": part.etag, "ChecksumSHA256": part.sha256}


def _own_prefix(prefix: str) -> str:
    """The operator's part of every key: whatever S3 takes, but for parts that clients rewrite. Raises SettingsError."""
    if not prefix:
        return ""
    parts = prefix.split("/")
    if any(part in ("", ".", "..") for part in parts) or not prefix.isprintable() or len(prefix.encode()) > 256:
        raise SettingsError(
            f"KG_STORE_URL has the prefix {prefix!r}, which does not do for a store's keys",
            hint="at most 256 bytes of printable characters, none of its parts empty, . or ..",
        )
    return f"{prefix}/"
