"""Who waits for a swap: writers from the moment when what they wrote is counted, readers only for its end."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from psycopg import errors

from tasks.core.addresses import Address
from tasks.core.backup import swap as module
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.errors import DatabaseError
from tasks.core.operations.rollback import Request
from tasks.core.postgres.connections import Connection, connect
from tasks.core.settings import Settings
from tests.faults.runs import deploy, rollback
from tests.integration.graphs import with_section
from tests.processes import until

pytestmark = pytest.mark.slow

READ = "SELECT count(*) FROM code_patterns"
WRITE = "INSERT INTO code_patterns (pattern_name, pattern_type, pattern_template, language) VALUES ('a', 'b', '', '')"


@pytest.fixture
def saved(settings: Settings) -> Settings:
    """Deployed, with a proved backup."""
    assert settings.address
    own = settings.model_copy(update={"scratch": settings.address.database("postgres")})
    deploy(own, drilled=False)
    drill(own, back_up(own))
    return own


def restore(settings: Settings) -> None:
    assert rollback(settings, Request("restore", yes=True)).strategy == "restore"


def test_readers_go_on_while_the_loss_is_counted(
    saved: Settings, database: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, count = [], module.loss_report

    def counting(conn: Connection, live: str, staged: str) -> Sequence[object]:
        with connect(database, purpose="test client") as client:
            client.execute("SET lock_timeout = '300ms'")
            seen.append(client.execute(READ).fetchone())
            with pytest.raises(errors.LockNotAvailable):
                client.execute(WRITE)
        return count(conn, live, staged)

    monkeypatch.setattr(module, "loss_report", counting)
    restore(saved)
    assert seen == [(0,)]


def test_who_waits_to_write_what_it_read_is_let_through(
    saved: Settings, conn: Connection, database: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that was raised regardless would be a deadlock with it."""
    calls, count = [], module.loss_report
    with connect(database, purpose="test client", autocommit=False) as client:
        client.execute(READ)
        writing = threading.Thread(target=lambda: (client.execute(WRITE), client.commit()))

        def counting(counter: Connection, live: str, staged: str) -> Sequence[object]:
            calls.append(live)
            if len(calls) == 1:
                writing.start()
                waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock'"
                until(lambda: conn.execute(waits).fetchone() == (True,), seconds=30)
            return count(counter, live, staged)

        monkeypatch.setattr(module, "loss_report", counting)
        restore(saved)
        writing.join(timeout=30)
        assert not writing.is_alive()
        assert client.info.transaction_status.name == "IDLE", "its transaction was committed, not ended as a deadlock"
    assert len(calls) == 2
    kept = conn.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'kg_replaced_%'").fetchone()
    assert kept
    assert conn.execute(f'SELECT count(*) FROM "{kept[0]}".code_patterns'.encode()).fetchone() == (1,)


def test_reads_that_take_longer_than_raising_waits_do_not_bar_it(saved: Settings, database: Address) -> None:
    """Two that overlap: at no moment are both over within half a second."""
    done = threading.Event()

    def read(delay: float) -> None:
        done.wait(delay)
        with connect(database, purpose="test reader", autocommit=False) as reader:
            while not done.is_set():
                reader.execute(READ)
                reader.execute("SELECT pg_sleep(1.4)")
                reader.commit()

    readers = [threading.Thread(target=read, args=(delay,)) for delay in (0.0, 0.7)]
    for each in readers:
        each.start()
    try:
        restore(saved)
    finally:
        done.set()
        for each in readers:
            each.join()


def test_a_reader_who_stays_bars_it_and_nothing_is_changed(
    saved: Settings, conn: Connection, database: Address
) -> None:
    before = conn.execute("SELECT 'code_patterns'::regclass::oid").fetchone()
    with connect(database, purpose="test reader", autocommit=False) as reader:
        reader.execute(READ)
        with pytest.raises(DatabaseError, match="swapping the restored tables in"):
            restore(with_section(saved, "database", lock_attempts=2))
        assert conn.execute("SELECT 'code_patterns'::regclass::oid").fetchone() == before
    restore(saved)
