"""What the S3 faults are tried on: a database, a moto server behind the proxy, four operations, and what must be true
after each of them, whatever happened.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from unittest.mock import patch

import boto3

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find, read_library, write_proof
from tasks.core.backup.manifest import DUMP, MANIFEST, Backup, Proof, new_id
from tasks.core.backup.readback import read_back
from tasks.core.backup.retention import prune
from tasks.core.errors import OpsError
from tasks.core.postgres.connections import connect
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import Settings
from tasks.core.store import parts
from tasks.core.store.base import Store, open_store
from tests.faults.proxy import Proxy, proxy
from tests.integration.graphs import deploy_graph, with_section
from tests.s3 import moto_server, s3_variables

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ROWS = 60
SMALL_PART = 64 << 10  # bytes; so that a small dump is an upload of several parts
SECRET = "a-secret-that-no-error-may-show"
QUICK_STALL = timedelta(seconds=1)


class Wrong(AssertionError):
    """A run that must not have ended as it did."""


@dataclass
class Bed:
    """`through` meets the faults, `direct` (and `client`) never does; both name the same empty place once `fresh` was
    called.
    """

    settings: Settings
    proxy: Proxy
    moto: str
    bucket: str
    template: Backup
    client: S3Client
    place: str = ""

    @property
    def through(self) -> Settings:
        return self._on(self.proxy.url)

    @property
    def direct(self) -> Settings:
        return self._on(self.moto)

    @property
    def store(self) -> Store:
        return open_store(self.direct)

    def fresh(self) -> None:
        self.place = secrets.token_hex(6)

    def _on(self, endpoint: str) -> Settings:
        os.environ["AWS_ENDPOINT_URL_S3"] = endpoint  # read when a store is opened
        return self.settings.model_copy(update={"store_url": f"s3://{self.bucket}/{self.place}"})

    def backups(self) -> tuple[Backup, ...]:
        """All that are listed; each must be whole, and nothing may lie there that cannot be read."""
        library = read_library(self.store, "dev")
        if library.problems:
            raise Wrong(f"{library.problems[0].name} is listed, but {library.problems[0].reason}")
        for backup in library.backups:
            read_back(self.store, backup, tools_for(backup.manifest.server.major, self.settings.home))
        return library.backups


@dataclass(frozen=True)
class Operation:
    """`prepare` makes what it works on; `check` raises Wrong when a run that said it went well did not; `never` when
    something is so that must not be, however the run ended.
    """

    name: str
    prepare: Callable[[Bed], None]
    run: Callable[[Settings], object]
    check: Callable[[Bed], None]
    never: Callable[[Bed], None]


def _nothing(_: Bed) -> None:
    """To be prepared."""


def _one_more(bed: Bed) -> None:
    if not bed.backups():
        raise Wrong("it said that it made a backup, and none is there")


def _all_whole(bed: Bed) -> None:
    bed.backups()


def _copy(bed: Bed, *, days: float = 0, proved: bool = False) -> Backup:
    """The template as if made so many days before; proved or not."""
    store, created = bed.store, bed.template.created - timedelta(days=days)
    manifest = bed.template.manifest.model_copy(update={"id": new_id(created), "created": created}).sealed()
    copy, bare = Backup(manifest=manifest), manifest.folder
    for found in manifest.objects:
        source = f"{bed.bucket}/template/{bed.template.key(found.name)}"
        bed.client.copy_object(Bucket=bed.bucket, Key=f"{bed.place}/{bare}/{found.name}", CopySource=source)
    store.put(copy.key(MANIFEST), [manifest.to_json()])
    if proved:
        proof = Proof(backup=copy.id, manifest=manifest.checksum, ok=True, created=created, grade="restorable")
        write_proof(store, copy, proof)
    return copy


def _one_unproved(bed: Bed) -> None:
    _copy(bed)


def _proved(bed: Bed) -> None:
    [backup] = bed.backups()
    if not backup.proved:
        raise Wrong("it said that it proved the backup, and no proof is there")


def _not_blamed(bed: Bed) -> None:
    [backup] = bed.backups()
    if backup.proof and not backup.proof.ok:
        raise Wrong(f"the backup is whole, and was blamed: {backup.proof.difference}")


def _old_and_new(bed: Bed) -> None:
    _copy(bed, proved=True)
    _copy(bed, days=12, proved=True)  # older than the window, newer than what the deploy before may need
    _copy(bed, days=40, proved=True)
    killed = f"{bed.place}/dev/{new_id(datetime.now(UTC))}/{DUMP}"
    bed.client.create_multipart_upload(Bucket=bed.bucket, Key=killed)  # to moto all are old


def _pruned(bed: Bed) -> None:
    if len(bed.backups()) != 1 or list(bed.store.unfinished("dev/", datetime.now(UTC))):
        raise Wrong("it said that it pruned, and something is still there")


def _newest_stays(bed: Bed) -> None:
    if not any(backup.proved for backup in bed.backups()):
        raise Wrong("the last good backup is gone")


def _read_newest(settings: Settings) -> object:
    store = open_store(settings)
    backup = find(store, "dev", proved=False)
    return read_back(store, backup, tools_for(backup.manifest.server.major, settings.home))


OPERATIONS = {
    each.name: each
    for each in (
        Operation("backup", _nothing, back_up, _one_more, _all_whole),
        Operation("read back", _one_unproved, _read_newest, _all_whole, _all_whole),
        Operation("drill", _one_unproved, lambda settings: drill(settings, _newest(settings)), _proved, _not_blamed),
        Operation("prune", _old_and_new, lambda settings: prune(settings, apply=True), _pruned, _newest_stays),
    )
}


def _newest(settings: Settings) -> Backup:
    return find(open_store(settings), "dev", proved=False)


def by_copy(settings: Settings) -> Settings:
    """The vectors' rows lie beside the dump, few as they are: objects more to lose."""
    return with_section(settings, "backup", binary_from_mb=0)


@contextmanager
def small_parts() -> Iterator[None]:
    with patch.object(parts, "SMALLEST_PART", SMALL_PART), patch.object(parts, "MIB", SMALL_PART):
        yield


@contextmanager
def bed(settings: Settings) -> Iterator[Bed]:
    """On the settings' database, which is filled. Drills restore beside it. Waits between tries are shortened."""
    from botocore import endpoint
    from moto.s3 import models

    assert settings.address
    quick = by_copy(with_section(settings, "backup", stall_timeout=QUICK_STALL))
    quick = quick.model_copy(update={"scratch": settings.address})
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each call
    session, real_sleep = boto3.Session(), endpoint.time.sleep  # type: ignore[attr-defined]
    with (
        moto_server() as moto,
        patch.dict(os.environ, s3_variables(moto, "fault-test", SECRET)),
        small_parts(),
        patch.object(models, "S3_UPLOAD_PART_MIN_SIZE", 1),
        patch.object(endpoint, "time", _Impatient(real_sleep)),
        patch.object(boto3, "Session", lambda: session),  # to read S3's model again takes longer than most runs
        proxy(moto) as before,
    ):
        bucket = f"faults-{secrets.token_hex(4)}"
        client = session.client("s3")
        client.create_bucket(Bucket=bucket)
        with connect(settings.address, purpose="test set-up") as conn:
            deploy_graph(conn, settings, rows=ROWS)
            conn.execute("UPDATE kg_ops.ledger SET applied_at = now() - interval '400 days'")
        made = quick.model_copy(update={"store_url": f"s3://{bucket}/template"})
        yield Bed(quick, before, moto, bucket, back_up(made), client)


class _Impatient:
    """botocore's clock: it waits a hundredth of what it would."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep = sleep

    def sleep(self, seconds: float) -> None:
        self._sleep(seconds / 100)


def is_clear(error: OpsError) -> bool:
    """One line that says what failed, and shows no secret."""
    return "\n" not in error.message and len(error.message) > 20 and SECRET not in str(error)
