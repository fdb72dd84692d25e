"""Both stores keep one contract: FileStore in a temporary folder, S3Store on a moto server, on SeaweedFS (as a process,
and in a container), and on the endpoint of KG_TEST_S3_ENDPOINT (with KG_TEST_S3_BUCKET and the AWS_* variables of a
real one) where that is set.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from tasks.core.errors import ObjectExists, ObjectMissing, SettingsError, StoreError, StoreUnavailable
from tasks.core.store import parts as parts_module
from tasks.core.store.base import Store, probe
from tasks.core.store.files import FileStore
from tasks.core.store.parts import (
    LARGEST_OBJECT,
    LARGEST_PART,
    MIB,
    MOST_PARTS,
    SMALLEST_PART,
    Uploads,
    part_size,
    parts,
)
from tasks.core.store.s3 import S3Store
from tasks.core.store.s3_errors import s3_errors
from tests.docker.seaweed import seaweed_container
from tests.seaweed import ACCESS_KEY, SECRET_KEY, seaweed

STALL = timedelta(seconds=30)
KEY = "dev/20260101T000000Z-0123abcd/database.dump.zst"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3://bucket/prefix of a bucket of its own on moto."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "contract")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-so-secret-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    name = f"b-{uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/kg"


def s3_store(url: str, **variables: str) -> S3Store:
    return S3Store.from_environment(url, stall_timeout=STALL, variables=variables)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """s3://bucket/prefix of an empty place on the endpoint that the environment names."""
    if not os.environ.get("KG_TEST_S3_ENDPOINT"):
        pytest.skip("KG_TEST_S3_ENDPOINT is not set")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", os.environ["KG_TEST_S3_ENDPOINT"])
    url = f"s3://{os.environ.get('KG_TEST_S3_BUCKET', 'kg-test')}/t-{uuid4().hex[:8]}/kg"
    yield url
    store = s3_store(url)
    for entry in list(store.list("")):
        store.delete(entry.key)


@pytest.fixture(scope="module")
def seaweed_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as endpoint:
        yield _with_bucket(endpoint)


@pytest.fixture(scope="module")
def container_endpoint() -> Iterator[str]:
    with seaweed_container() as endpoint:
        yield _with_bucket(endpoint)


def _with_bucket(endpoint: str) -> str:
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
    boto3.Session(**keys).client("s3", endpoint_url=endpoint).create_bucket(Bucket="contract")
    return endpoint


@pytest.fixture
def on_seaweed(seaweed_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    return _place_on(seaweed_endpoint, monkeypatch)


@pytest.fixture
def in_container(container_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    return _place_on(container_endpoint, monkeypatch)


def _place_on(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3://bucket/prefix of an empty place on SeaweedFS."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return f"s3://contract/t-{uuid4().hex[:8]}/kg"


@pytest.fixture(params=["file", "moto", "on_seaweed", "in_container", "endpoint"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return FileStore.from_url((tmp_path / "a b" / "store").as_uri())
    return s3_store(request.getfixturevalue("bucket" if request.param == "moto" else request.param))


def content(store: Store, key: str) -> bytes:
    with store.open(key) as reader:
        return reader.read()


def far_future() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def test_what_is_put_is_read_back_listed_and_deleted(store: Store) -> None:
    stored = store.put(KEY, [b"one ", b"", b"two"])
    assert (stored.size, stored.sha256) == (7, hashlib.sha256(b"one two").hexdigest())
    assert content(store, KEY) == b"one two"
    assert store.exists(KEY)
    [entry] = store.list("dev/")
    assert (entry.key, entry.size) == (KEY, 7)
    assert abs(datetime.now(UTC) - entry.modified) < timedelta(minutes=5)
    store.delete(KEY)
    store.delete(KEY)
    assert not store.exists(KEY)
    assert list(store.list("")) == []


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.put(KEY, [])
    assert content(store, KEY) == b""


def test_a_large_object_is_streamed_both_ways(store: Store) -> None:
    block = os.urandom(MIB)
    stored = store.put(KEY, (block for _ in range(20)), size_hint=20 * MIB)
    digest = hashlib.sha256()
    with store.open(KEY) as reader:
        while chunk := reader.read(100_000):
            assert len(chunk) <= 100_000
            digest.update(chunk)
    assert digest.hexdigest() == stored.sha256 == hashlib.sha256(block * 20).hexdigest()


@pytest.mark.parametrize("blocks", [1, 20], ids=["small", "multipart"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_source_that_fails_leaves_nothing(store: Store, blocks: int, error: type[BaseException]) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(blocks):
            yield bytes(MIB)
        raise error("the source broke")

    with pytest.raises(error):
        store.put(KEY, chunks())
    assert not store.exists(KEY)
    assert list(store.list("")) == []
    assert list(store.unfinished("", far_future())) == []


def test_a_failed_replacement_keeps_the_old_object(store: Store) -> None:
    store.put(KEY, [b"old"])

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.put(KEY, chunks())
    assert content(store, KEY) == b"old"


def test_an_object_is_seen_only_when_whole(store: Store) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(12):
            yield bytes(MIB)
            assert not store.exists(KEY)
            assert list(store.list("")) == []

    store.put(KEY, chunks())
    assert store.exists(KEY)


def test_only_if_absent_refuses_a_taken_key(store: Store) -> None:
    store.put(KEY, [b"first"], only_if_absent=True)
    with pytest.raises(ObjectExists):
        store.put(KEY, [b"second"], only_if_absent=True)
    assert content(store, KEY) == b"first"


def test_a_missing_object_is_said_so(store: Store) -> None:
    with pytest.raises(ObjectMissing), store.open(KEY):
        pass


def test_list_is_sorted_and_by_prefix(store: Store) -> None:
    for key in ("dev/b/x", "dev/a/y", "staging/a/x", "dev2/a"):
        store.put(key, [b"."])
    assert [entry.key for entry in store.list("dev/")] == ["dev/a/y", "dev/b/x"]
    assert [entry.key for entry in store.list("dev/a")] == ["dev/a/y"]
    assert [entry.key for entry in store.list("nothing/")] == []


@pytest.mark.parametrize(
    "key", ["../x", "a/../b", "/etc/passwd", "a//b", "", ".", "a/", ".hidden", "a\\b", "a\nb", "é"]
)
def test_keys_that_lead_elsewhere_are_refused(store: Store, key: str) -> None:
    for use in (lambda: store.put(key, [b""]), lambda: store.delete(key), lambda: store.exists(key)):
        with pytest.raises(StoreError, match="is not a key"):
            use()
    with pytest.raises(StoreError, match="is not a key"), store.open(key):
        pass


def test_the_probe_leaves_nothing_and_these_stores_lack_nothing(store: Store) -> None:
    assert probe(store) == ()
    assert list(store.list("")) == []


def test_two_writers_of_one_key_leave_one_whole_object(store: Store) -> None:
    bodies = [bytes([number]) * (9 * MIB) for number in range(2)]
    threads = [threading.Thread(target=store.put, args=(KEY, [body])) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(store, KEY) in bodies


# What only S3 has


def test_checksums_encryption_and_storage_class_are_sent(bucket: str) -> None:
    store = s3_store(bucket, KG_STORE_SSE="aws:kms:arn:aws:kms:us-east-1:1:key/k", KG_STORE_STORAGE_CLASS="STANDARD_IA")
    for key, blocks in (("dev/small", 1), ("dev/large", 9)):
        store.put(key, [bytes(MIB)] * blocks)
        head = store.client.head_object(**store._object(key), ChecksumMode="ENABLED")
        assert head["ServerSideEncryption"] == "aws:kms"
        assert head["SSEKMSKeyId"] == "arn:aws:kms:us-east-1:1:key/k"
        assert head["StorageClass"] == "STANDARD_IA"
        assert head["ChecksumSHA256"]


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


# Parts


def capacity(hint: int | None) -> int:
    """Bytes of all parts: they have two sizes only."""
    early = part_size(hint, 1) * parts_module.EQUAL_PARTS
    return early + part_size(hint, MOST_PARTS) * (MOST_PARTS - parts_module.EQUAL_PARTS)


@given(st.integers(min_value=0, max_value=LARGEST_OBJECT))
def test_ten_thousand_parts_suffice_up_to_the_largest_object(hint: int) -> None:
    assert capacity(hint) >= (3 * hint if hint < 5 * 10**12 else hint)
    assert SMALLEST_PART <= part_size(hint, 1) <= part_size(hint, MOST_PARTS) <= LARGEST_PART


def test_parts_at_the_edges() -> None:
    assert capacity(LARGEST_OBJECT) == LARGEST_OBJECT
    assert capacity(None) > 180 << 30
    assert part_size(5 << 30, 1) == SMALLEST_PART
    assert part_size(5 << 40, 1) < 700 * MIB


@given(st.lists(st.integers(min_value=0, max_value=5), max_size=12), st.integers(min_value=1, max_value=4))
def test_parts_hold_every_byte_in_order(sizes: list[int], part: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_module, "SMALLEST_PART", part)
        patch.setattr(parts_module, "MIB", 1)
        chunks = [os.urandom(size) for size in sizes]
        cut = list(parts(chunks, None))
    assert b"".join(cut) == b"".join(chunks)
    assert all(len(piece) == part for piece in cut[:-1])
    assert cut[-1] or len(cut) == 1


@pytest.mark.parametrize("together", [1, 3])
def test_no_more_than_a_few_parts_fly_at_once(together: int) -> None:
    flying, most, lock = 0, 0, threading.Lock()

    def send(number: int, body: parts_module.Body, digest: str) -> str:
        nonlocal flying, most
        with lock:
            flying, most = flying + 1, max(most, flying + 1)
        time.sleep(0.002)
        body.read()
        with lock:
            flying -= 1
        return str(number)

    def upload(_: int) -> list[int]:
        uploads = Uploads(send, stall_seconds=5)
        for number in range(1, 41):
            uploads.add(number, bytes(SMALLEST_PART))
        return [part.number for part in uploads.finish()]

    with ThreadPoolExecutor(together) as pool:
        assert list(pool.map(upload, range(together))) == [list(range(1, 41))] * together
    assert 1 < most < parts_module.MEMORY // SMALLEST_PART + together, "each may have one more than there is room for"


def test_a_stalled_upload_is_ended() -> None:
    release = threading.Event()
    uploads = Uploads(lambda number, body, digest: str(release.wait(20)), stall_seconds=1)
    uploads.add(1, b"x")
    with pytest.raises(StoreError, match="moved nothing for 1 s"):
        uploads.finish()
    started = time.monotonic()
    uploads.cancel(patience=0.2)
    assert time.monotonic() - started < 2
    release.set()


def test_a_slow_source_is_no_stall() -> None:
    uploads = Uploads(lambda number, body, digest: "etag", stall_seconds=1)
    uploads.add(1, b"x")
    time.sleep(2.5)
    uploads.add(2, b"y")
    assert len(uploads.finish()) == 2


def test_a_broken_link_among_the_files_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="tasks")
    store = FileStore(tmp_path)
    store.put(KEY, [b"whole"])
    (tmp_path / KEY).with_name("stray").symlink_to(tmp_path / "nowhere")
    (tmp_path / KEY).with_name(f".gone.{uuid4().hex}.part").symlink_to(tmp_path / "nowhere")
    assert [entry.key for entry in store.list("dev/")] == [KEY]
    assert list(store.unfinished("dev/", far_future())) == []
    assert f"{tmp_path / KEY.rpartition('/')[0]}/stray is a broken link, and not ours" in caplog.text


def test_a_file_that_goes_while_it_is_listed_is_passed_over(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for name in ("a", "b", "c"):
        store.put(f"dev/{name}", [b"whole"])
    listed = []
    for entry in store.list("dev/"):
        listed.append(entry.key)
        store.delete("dev/b")
    assert listed == ["dev/a", "dev/c"]
