"""Backups in a bucket: the whole way on a moto server, and a dump that fails half-way through its upload."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from tasks.core.backup import dump
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find, read_library
from tasks.core.backup.readback import read_back
from tasks.core.backup.retention import prune
from tasks.core.errors import CommandFailed, SettingsError
from tasks.core.postgres.connections import Connection
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import Settings
from tasks.core.store.base import Stored, open_store, probe
from tests.integration.graphs import deploy_graph, the_pg_dump, with_section
from tests.integration.test_prune import earlier
from tests.s3 import moto_server, s3_variables

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with moto_server() as endpoint:
        for variable, value in s3_variables(endpoint, "backup-test", "a-secret-of-the-bucket").items():
            monkeypatch.setenv(variable, value)
        name = f"kg-{secrets.token_hex(4)}"
        boto3.Session().client("s3").create_bucket(Bucket=name)
        yield f"s3://{name}/prefix"


def test_the_whole_way_on_s3(
    settings: Settings, conn: Connection, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    on_s3 = settings.model_copy(update={"store_url": bucket})
    deploy_graph(conn, settings, rows=1600)
    with caplog.at_level("DEBUG", logger="tasks"):
        backup = back_up(on_s3)
        assert backup.manifest.dump.stored_bytes > 8 << 20, "more than one part"
        read_back(open_store(on_s3), backup, tools_for(backup.manifest.server.major, settings.home))
        assert drill(on_s3, backup).ok
        assert find(open_store(on_s3), "dev").id == backup.id
        assert [decision.id for decision in prune(on_s3, apply=True).keep] == [backup.id]
        streamed = back_up(with_section(on_s3, "backup", binary_from_mb=0))
        assert len(streamed.manifest.streams) > 1
        assert drill(on_s3, streamed).ok
    assert "a-secret-of-the-bucket" not in caplog.text


def test_what_the_store_locks_is_kept(
    settings: Settings, conn: Connection, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"locked-{secrets.token_hex(4)}"
    boto3.Session().client("s3").create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    monkeypatch.setenv("KG_STORE_LOCK", "GOVERNANCE:30")
    on_s3 = settings.model_copy(update={"store_url": f"s3://{name}/kg"})
    deploy_graph(conn, settings, rows=5)
    newest = back_up(on_s3)
    assert probe(open_store(on_s3)) == (), "what is not a backup is not locked"
    newest = newest.model_copy(update={"proof": drill(on_s3, newest)})
    old = earlier(on_s3, newest, 30)
    monkeypatch.delenv("KG_STORE_LOCK")
    free, spare = earlier(on_s3, newest, 25), earlier(on_s3, newest, 20)  # the last is the one before the deploy
    decided = prune(on_s3, apply=True)
    assert dict(decided.keep)[old.id].startswith("locked in the store until ")
    assert [decision.id for decision in decided.delete] == [free.id]
    assert {found.id for found in read_library(open_store(on_s3), "dev").backups} == {old.id, spare.id, newest.id}
    monkeypatch.setenv("KG_STORE_LOCK", "GOVERNANCE:soon")
    with pytest.raises(SettingsError, match="KG_STORE_LOCK"):
        open_store(on_s3)


def test_a_pg_dump_that_fails_leaves_no_upload_on_s3(
    settings: Settings, conn: Connection, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_s3 = settings.model_copy(update={"store_url": bucket})
    deploy_graph(conn, settings, rows=1600)
    store = open_store(on_s3)
    put = store.put

    def watched(key: str, chunks: Iterable[bytes], **options: Any) -> Stored:
        def passing() -> Iterator[bytes]:
            passed, killed = 0, False
            for chunk in chunks:
                yield chunk
                passed += len(chunk)
                if passed > 9 << 20 and not killed:
                    killed = True
                    os.kill(the_pg_dump(), signal.SIGKILL)

        return put(key, passing(), **options)

    monkeypatch.setattr(store, "put", watched)
    monkeypatch.setattr(dump, "open_store", lambda _: store)
    with pytest.raises(CommandFailed, match="pg_dump was ended by SIGKILL"):
        back_up(on_s3)
    assert read_library(store, "dev").leftovers == ()
    assert list(store.list("")) == []
    assert list(store.unfinished("", datetime.now(UTC) + timedelta(days=1))) == []
