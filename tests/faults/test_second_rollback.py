"""A rollback takes the newest deploy back, once: whoever asks again, by a double click or from another terminal, takes
nothing more; to go further is said by the revision.
"""

from __future__ import annotations

import pytest

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.errors import RollbackRefused, UsageError
from tasks.core.operations.rollback import Request, Strategy
from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.settings import Settings
from tests.faults.runs import deploy, rollback, whole
from tests.servers.job import state


def add(settings: Settings, revision: str, column: str) -> None:
    for way, verb in (("up", "ADD"), ("down", "DROP")):
        kind = " int" if way == "up" else ""
        file = settings.migrations / f"{revision}_{column}.{way}.sql"
        file.write_text(f"ALTER TABLE code_patterns {verb} COLUMN {column}{kind};")
    deploy(settings, drilled=False)


def applied(conn: Connection) -> list[str]:
    return [entry.revision for entry in ledger.entries(conn)]


@pytest.fixture
def twice(ours: Settings) -> Settings:
    """Two more deploys: 002, then 003."""
    add(ours, "002", "second")
    add(ours, "003", "third")
    return ours


@pytest.mark.parametrize("strategy", ["auto", "revert"])
def test_asked_twice_it_takes_back_one_deploy(twice: Settings, conn: Connection, strategy: Strategy) -> None:
    assert rollback(twice, Request(strategy)).reverted == ("003",)
    before = state(twice)
    again = rollback(twice, Request(strategy, yes=True))
    assert (again.nothing, again.reverted, state(twice)) == (True, (), before)
    assert again.detail == (
        "the newest deploy (003) has been taken back already, it is at revision 002; "
        "to go further back: --strategy revert --to 001"
    )
    assert applied(conn) == ["001", "002"]


def test_what_a_restore_brought_back_is_no_deploy_of_its_own(twice: Settings, conn: Connection) -> None:
    backup = back_up(twice)
    drill(twice, backup)
    assert rollback(twice, Request("revert", to="001")).reverted == ("003", "002")
    assert rollback(twice, Request("restore", backup.id, yes=True)).backup == backup.id
    assert applied(conn) == ["001", "002", "003"]
    before = state(twice)
    again = rollback(twice, Request("auto", yes=True))
    assert (again.nothing, state(twice)) == (True, before)


def test_a_whole_database_that_was_restored_is_left_as_it_is(ours: Settings) -> None:
    add(ours, "002", "second")
    drill(ours, back_up(ours))
    add(ours, "003", "third")
    whole(ours)
    before = state(ours)
    assert rollback(ours, Request("auto", yes=True)).nothing
    assert state(ours) == before


def test_to_a_revision(twice: Settings, conn: Connection) -> None:
    assert rollback(twice, Request("revert", to="003")).nothing
    assert rollback(twice, Request("auto", to="2")).reverted == ("003",)
    assert rollback(twice, Request("revert", to="none", yes=True)).reverted == ("002", "001")
    assert applied(conn) == []
    assert rollback(twice, Request("revert", to="none")).nothing


def test_to_a_revision_that_is_not_applied(twice: Settings) -> None:
    before = state(twice)
    with pytest.raises(UsageError, match="revision 007 is not applied: 001, 002, 003 are"):
        rollback(twice, Request("revert", to="007"))
    with pytest.raises(UsageError, match="'up' is no revision"):
        rollback(twice, Request("revert", to="up"))
    assert state(twice) == before


def test_an_adopted_revision_stays_whatever_is_asked(twice: Settings, conn: Connection) -> None:
    conn.execute("UPDATE kg_ops.ledger SET kind = 'adopted' WHERE revision = '001'")
    before = state(twice)
    with pytest.raises(RollbackRefused, match="revision 001 was adopted, not applied: it is never reverted"):
        rollback(twice, Request("revert", to="none", yes=True))
    assert state(twice) == before
    assert applied(conn) == ["001", "002", "003"]
