"""What only S3 has, as a store."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError

from tasks.core.errors import SettingsError, StoreError, StoreUnavailable
from tasks.core.store.base import probe
from tasks.core.store.parts import (
    MIB,
)
from tasks.core.store.s3_errors import s3_errors
from tests.core.stores import KEY, bucket, content, far_future, moto, s3_store

__all__ = ["bucket", "moto"]  # fixtures


def test_checksums_encryption_and_storage_class_are_sent(bucket: str) -> None:
    store = s3_store(bucket, KG_STORE_SSE="aws:kms:arn:aws:kms:us-east-1:1:key/k", KG_STORE_STORAGE_CLASS="STANDARD_IA")
    for key, blocks in (("dev/small", 1), ("dev/large", 9)):
        store.put(key, [bytes(MIB)] * blocks)
        head = store.client.head_object(**store._object(key), ChecksumMode="ENABLED")
        assert head["ServerSideEncryption"] == "aws:kms"
        assert head["SSEKMSKeyId"] == "arn:aws:kms:us-east-1:1:key/k"
        assert head["StorageClass"] == "STANDARD_IA"
        assert head["ChecksumSHA256"]


def test_encryption_by_the_store_s_own_keys(bucket: str) -> None:
    store = s3_store(bucket, KG_STORE_SSE="AES256")
    for key, blocks in (("dev/small", 1), ("dev/large", 9)):
        store.put(key, [bytes(MIB)] * blocks)
        head = store.client.head_object(**store._object(key))
        assert (head["ServerSideEncryption"], "SSEKMSKeyId" in head) == ("AES256", False)


def test_a_killed_multipart_upload_is_swept(bucket: str) -> None:
    store = s3_store(bucket)
    store.client.create_multipart_upload(**store._object(KEY))
    store.client.create_multipart_upload(Bucket=store.bucket, Key="someone/else")
    assert list(store.list("")) == []
    assert list(store.unfinished("dev/", datetime(2000, 1, 1, tzinfo=UTC))) == []  # to moto all are from 2010
    [name] = store.unfinished("dev/", far_future())
    store.discard(name)
    assert list(store.unfinished("", far_future())) == []


@pytest.mark.parametrize(
    ("variables", "url", "said"),
    [
        ({}, "s3://no-such-bucket/x", "there is no bucket no-such-bucket"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, "s3://b/x", "cannot be reached"),
        ({"AWS_ENDPOINT_URL_S3": "nonsense"}, "s3://b/x", "endpoint's URL is malformed"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"},
            "s3://b/x",
            "there are no S3 credentials",
        ),
    ],
)
def test_errors_of_s3_are_one_line_with_a_hint_and_no_secret(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], url: str, said: str
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(StoreError, match=said) as caught:
        probe(s3_store(url))
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert "not-so-secret-secret" not in str(caught.value)


@pytest.mark.parametrize("variables", [{"KG_STORE_SSE": "rot13"}, {"KG_STORE_ADDRESSING": "sideways"}])
def test_malformed_variables_are_named(bucket: str, variables: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(variables))):
        s3_store(bucket, **variables)


@pytest.mark.parametrize(("addressing", "host"), [("path", "127.0.0.1"), ("virtual", "bucket.localhost")])
def test_both_ways_of_addressing(bucket: str, monkeypatch: pytest.MonkeyPatch, addressing: str, host: str) -> None:
    if addressing == "virtual":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://localhost:1")
    store = s3_store("s3://b/x", KG_STORE_ADDRESSING=addressing)
    assert host in store.client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})


def test_a_bucket_in_the_host_s_name_is_reached(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual-host addressing for real, as on AWS: each host of amazonaws.com is the test's server."""
    real = socket.getaddrinfo
    port = urlsplit(os.environ["AWS_ENDPOINT_URL_S3"]).port
    asked: set[str] = set()

    def here(host: Any, *words: Any, **named: Any) -> Any:
        asked.add(str(host))
        return real("127.0.0.1" if str(host).endswith(".amazonaws.com") else host, *words, **named)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://s3.us-east-1.amazonaws.com:{port}")
    store = s3_store(bucket, KG_STORE_ADDRESSING="virtual")
    store.put(KEY, [bytes(MIB)] * 9)
    assert [entry.key for entry in store.list("dev/")] == [KEY]
    assert content(store, KEY) == bytes(9 * MIB)
    assert asked == {f"{store.bucket}.s3.us-east-1.amazonaws.com"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    assert s3_store(bucket, KG_STORE_ADDRESSING="path").exists(KEY), "the same object, by the other way"


def test_a_cut_download_is_resumed_where_it_was_cut(bucket: str) -> None:
    store = s3_store(bucket)
    whole = os.urandom(3 * MIB)
    store.put(KEY, [whole])
    with store.open(KEY) as reader:
        first = reader.read(MIB)
        reader._body._raw_stream.close()  # type: ignore[attr-defined]  # the connection is gone
        assert first + reader.read() == whole


def test_a_part_that_fails_for_good_aborts_the_upload(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = s3_store(bucket)

    def refuse(**_: object) -> None:
        raise boto3.client("s3").exceptions.ClientError({"Error": {"Code": "AccessDenied"}}, "UploadPart")

    monkeypatch.setattr(store.client, "upload_part", refuse)
    with pytest.raises(StoreError, match="access is denied"):
        store.put(KEY, [bytes(MIB)] * 40)
    assert list(store.unfinished("", far_future())) == []


@pytest.mark.parametrize(
    ("code", "passes"), [("SlowDown", True), ("InternalError", True), ("AccessDenied", False), ("NoSuchBucket", False)]
)
def test_only_faults_that_pass_are_worth_another_try(code: str, passes: bool) -> None:
    with pytest.raises(StoreError) as caught, s3_errors("write", "b"):
        raise ClientError({"Error": {"Code": code}}, "PutObject")
    assert isinstance(caught.value, StoreUnavailable) is passes
    assert caught.value.hint


def test_the_expected_owner_goes_with_every_call(bucket: str) -> None:
    """S3 then refuses a bucket that somebody else has made under a name that was ours."""
    store = s3_store(bucket, KG_STORE_BUCKET_OWNER="123456789012")
    asked: dict[str, str | None] = {}

    def note(request: Any, event_name: str, **_: object) -> None:
        owner = request.headers.get("x-amz-expected-bucket-owner")
        asked[event_name.rpartition(".")[2]] = owner.decode() if isinstance(owner, bytes) else owner

    store.client.meta.events.register("before-send.s3", note)
    store.put(KEY, [bytes(MIB)])
    store.put("dev/large", [bytes(MIB)] * 9)
    assert (content(store, KEY), store.exists(KEY)) == (bytes(MIB), True)
    assert len(list(store.list(""))) == 2
    with pytest.raises(RuntimeError):
        store.put("dev/failing", failing())
    assert list(store.unfinished("", far_future())) == []
    store.delete(KEY)
    wanted = {"PutObject", "GetObject", "HeadObject", "DeleteObject", "ListObjectsV2", "CreateMultipartUpload"}
    wanted |= {"UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload", "ListMultipartUploads"}
    assert set(asked) >= wanted
    assert set(asked.values()) == {"123456789012"}, asked


def failing() -> Iterator[bytes]:
    for _ in range(20):
        yield bytes(MIB)
    raise RuntimeError
