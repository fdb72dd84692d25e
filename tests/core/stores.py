"""The stores of tests: a folder, moto, SeaweedFS as a process and in a container, the endpoint of KG_TEST_S3_ENDPOINT
(with KG_TEST_S3_BUCKET and the AWS_* variables of a real one) where that is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from tasks.core.store.base import Store
from tasks.core.store.files import FileStore
from tasks.core.store.s3 import S3Store
from tests.docker.seaweed import seaweed_container
from tests.s3 import moto_server, s3_variables
from tests.seaweed import ACCESS_KEY, SECRET_KEY, seaweed

STALL = timedelta(seconds=30)
KEY = "dev/20260101T000000Z-0123abcd/database.dump.zst"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3://bucket/prefix of a bucket of its own on moto."""
    for variable, value in s3_variables(moto, "contract", "not-so-secret-secret").items():
        monkeypatch.setenv(variable, value)
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
    for variable, value in s3_variables(endpoint).items():
        monkeypatch.setenv(variable, value)
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
