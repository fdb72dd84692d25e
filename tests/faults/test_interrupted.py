"""A deploy of several revisions that is interrupted among them: afterwards all of them are there, or none."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flows.deployment import Deployment
from tasks.core.addresses import Address
from tasks.core.operations.rollback import Request
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.settings import Settings
from tests.core.test_notices import Webhook, webhook
from tests.faults.proofs import unfinished
from tests.faults.runs import deploy, recovered, rollback
from tests.processes import until
from tests.servers.job import state

__all__ = ["webhook"]
SLEEPS = "DO $$ BEGIN IF current_schema() = 'public' THEN PERFORM pg_sleep(600); END IF; END $$;"


def add(settings: Settings, revision: str, column: str, *, up: str = "", down: str = "") -> None:
    file = settings.migrations / f"{revision}_{column}"
    file.with_suffix(".up.sql").write_text(f"ALTER TABLE code_patterns ADD COLUMN {column} int; {up}")
    file.with_suffix(".down.sql").write_text(f"{down} ALTER TABLE code_patterns DROP COLUMN {column};")


@contextmanager
def interrupted_when_it_sleeps(address: Address) -> Iterator[None]:
    """Ctrl-C, once a session of the database is in pg_sleep."""

    def interrupt() -> None:
        with connect(address, purpose="test watcher") as watcher:
            asleep = (
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = "
                "current_database()"
            )
            until(lambda: watcher.execute(asleep).fetchone() == (True,), seconds=60)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        thread.join()


def test_a_deploy_goes_back_to_before_its_first(ours: Settings, conn: Connection, database: Address) -> None:
    before = state(ours)
    add(ours, "002", "second")
    add(ours, "003", "third")
    add(ours, "004", "fourth", up=SLEEPS)
    with interrupted_when_it_sleeps(database):
        deploy(ours, drilled=False)
    assert [entry.revision for entry in ledger.entries(conn)] == ["001", "002", "003"]
    assert unfinished(conn) == 1
    done = recovered(ours)
    assert [(each.what, each.detail[:31]) for each in done.actions] == [
        ("rolled-back", "reverted 003, 002: it died befo")
    ]
    assert (state(ours), unfinished(conn)) == (before, 0)
    assert [entry.revision for entry in ledger.entries(conn)] == ["001"]


def test_a_rollback_is_finished(ours: Settings, conn: Connection, database: Address) -> None:
    before = state(ours)
    add(ours, "002", "second", down=SLEEPS)
    add(ours, "003", "third")
    deploy(ours, drilled=False)
    with interrupted_when_it_sleeps(database):
        rollback(ours, Request("revert"))
    assert [entry.revision for entry in ledger.entries(conn)] == ["001", "002"]
    (ours.migrations / "002_second.down.sql").write_text("ALTER TABLE code_patterns DROP COLUMN second;")
    conn.execute("UPDATE kg_ops.ledger SET down_checksum = encode(sha256(convert_to(%s, 'UTF8')), 'hex')"
                 " WHERE revision = '002'", ["ALTER TABLE code_patterns DROP COLUMN second;"])  # fmt: skip
    done = recovered(ours)
    assert [each.what for each in done.actions] == ["finished"]
    assert (state(ours), unfinished(conn)) == (before, 0)


def test_before_anything_was_begun_nothing_is_left_to_settle(ours: Settings, conn: Connection) -> None:
    from tasks.core.operations.operation import operation

    with pytest.raises(KeyboardInterrupt), operation(ours, "deploy"):
        raise KeyboardInterrupt
    assert unfinished(conn) == 0
    assert recovered(ours).nothing


@pytest.mark.parametrize("begun", [True, False])
def test_a_deploy_that_was_told_of_tells_that_it_was_interrupted(
    ours: Settings, webhook: Webhook, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    monkeypatch.setenv("KG_NOTIFY_URLS", f"json://{webhook.address}/")
    with pytest.raises(KeyboardInterrupt), Deployment(ours) as run:
        run.told = True
        if begun:
            run.operation.describe(migrate={"revisions": ["001"]})
        raise KeyboardInterrupt
    (message,) = webhook.received
    assert message["message"].startswith("The deploy was interrupted. ")
    assert ("kg recover dev" in message["message"]) == begun
