"""What others put into the store's folder, by mistake or on purpose: it is named, left alone, and hides no backup."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from moto import mock_aws
from pydantic import SecretStr

from tasks.core.backup.encryption import decrypted
from tasks.core.backup.library import backups, read_library, sweepable
from tasks.core.backup.manifest import DUMP, KEEP, MANIFEST, Backup, new_id
from tasks.core.errors import SettingsError, StoreError
from tasks.core.store.files import FileStore
from tasks.core.store.s3 import S3Store
from tests.core.test_manifest import manifest

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
MINUTE = timedelta(minutes=1)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


@pytest.fixture
def good(store: FileStore) -> Backup:
    backup = Backup(manifest=manifest())
    store.put(backup.key(DUMP), [b"four"])
    store.put(backup.key(MANIFEST), [backup.manifest.to_json()])
    return backup


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "notes")


def pipe_as_manifest(folder: Path) -> None:
    (folder / new_id(datetime.now(UTC))).mkdir()
    os.mkfifo(next(path for path in folder.iterdir() if not list(path.iterdir())) / MANIFEST)


def loop(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")


def no_text(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9")).write_bytes(b"x")


def colourful(folder: Path) -> None:
    (folder / "\x1b[2Jgone\nbackup fine").write_bytes(b"x")


def nested(folder: Path) -> None:
    other = folder / new_id(datetime.now(UTC))
    other.mkdir()
    (other / MANIFEST).write_bytes(b"[" * 200_000)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("harm", [pipe, pipe_as_manifest, loop, no_text, colourful, nested])
def test_it_hides_no_backup_and_is_named_in_plain_text(
    store: FileStore, good: Backup, harm: Callable[[Path], None]
) -> None:
    harm(store.folder / "dev")
    assert backups(store, "dev") == (good,)
    found = read_library(store, "dev")
    for problem in found.problems:
        assert f"{problem.name}{problem.reason}".isprintable()
        assert f"{problem.name}{problem.reason}".encode()
    assert len(found.problems) == (harm in (no_text, colourful, nested))


def test_only_our_own_objects_are_swept(store: FileStore, good: Backup) -> None:
    killed, kept = "20260101T000000Z-0123abcd", "20260101T000000Z-4567abcd"
    for name in (DUMP, "data/public.t.1.copy.zst", "README.txt", "data/list of tables"):
        path = store.folder / "dev" / killed / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    store.put(f"dev/{kept}/{DUMP}", [b"x"])
    store.put(f"dev/{kept}/{KEEP}", [b"kept"])
    found = read_library(store, "dev")
    assert [leftover.id for leftover in found.leftovers] == [killed]
    names = {entry.key.split("/", 2)[2] for leftover in found.leftovers for entry in leftover.entries}
    assert names == {DUMP, "data/public.t.1.copy.zst"}
    assert {problem.name for problem in found.problems} == {
        f"{killed}/README.txt",
        f"{killed}/data/list of tables",
        kept,
    }
    assert found.backups == (good,)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield S3Store.from_environment("s3://bucket/kg", stall_timeout=MINUTE)


def test_a_consoles_folder_is_no_backup_and_no_remains(bucket: S3Store) -> None:
    """The console of AWS makes an empty object for each folder that somebody creates there."""
    for key in ("kg/dev/", "kg/dev/20260101T000000Z-0123abcd/", "kg/dev/20260101T000000Z-0123abcd/data/"):
        bucket.client.put_object(Bucket="bucket", Key=key, Body=b"")
    found = read_library(bucket, "dev")
    assert found.backups == found.problems == found.leftovers == ()


def test_only_our_own_uploads_are_aborted(bucket: S3Store) -> None:
    own = f"kg/dev/20260101T000000Z-0123abcd/{DUMP}"
    for key in (own, "kg/dev/someone/film.mp4", "kg/dev/20260101T000000Z-0123abcd/a film.mp4"):
        bucket.client.create_multipart_upload(Bucket="bucket", Key=key)
    found = sweepable(bucket.unfinished("dev/", datetime.now(UTC) + MINUTE), "dev")
    assert [name.partition("?")[0] for name in found] == [own.removeprefix("kg/")]


@pytest.mark.parametrize("url", ["s3://My Bucket!/kg", "s3://bucket?x=y/kg"])
def test_an_impossible_bucket_is_named(bucket: S3Store, url: str) -> None:
    store = S3Store.from_environment(url, stall_timeout=MINUTE)
    with pytest.raises(StoreError, match="no possible name of a bucket") as caught:
        list(store.list("dev/"))
    assert "KG_STORE_URL" in (caught.value.hint or "")


@pytest.mark.parametrize("days", ["99999999999999", "36501"])
def test_a_lock_for_longer_than_s3_can_is_refused(bucket: S3Store, days: str) -> None:
    variables = {"KG_STORE_LOCK": f"GOVERNANCE:{days}"}
    with pytest.raises(SettingsError, match="KG_STORE_LOCK"):
        S3Store.from_environment("s3://bucket/kg", stall_timeout=MINUTE, variables=variables)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None], ids=["no text", "no such user"])
def test_an_identity_that_is_none_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "identity"
    path.write_bytes(content or b"")
    name = str(path) if content else "~nobody-of-that-name/identity"
    with pytest.raises(SettingsError, match="KG_STORE_IDENTITY is neither"):
        list(decrypted([b"x"], SecretStr(name)))
