"""A migration below an applied one: refused, unless the environment asks for it; and then it goes back by itself."""

from __future__ import annotations

import pytest

from tasks.core.errors import Refused, RehearsalFailed
from tasks.core.operations.plan import preview
from tasks.core.operations.rehearsal import rehearse
from tasks.core.operations.rollback import Request
from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.check import check
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tests.faults.runs import deploy, recovered, rollback
from tests.servers.job import state


def write(settings: Settings, revision: str, column: str, table: str = "code_relationships") -> None:
    for way, verb in (("up", "ADD"), ("down", "DROP")):
        kind = " int" if way == "up" else ""
        file = settings.migrations / f"{revision}_{column}.{way}.sql"
        file.write_text(f"ALTER TABLE {table} {verb} COLUMN {column}{kind};")


def applied(conn: Connection) -> list[str]:
    return [entry.revision for entry in ledger.entries(conn)]


def test_a_late_file_is_refused_unless_it_is_asked_for(ours: Settings, conn: Connection) -> None:
    write(ours, "003", "third", "code_patterns")
    deploy(ours, drilled=False)
    before = state(ours)
    write(ours, "002", "second")
    with pytest.raises(Refused, match="002_second would be applied after revision 003, out of order") as refused:
        deploy(ours, drilled=False)
    assert "out_of_order = true under [deploy] in the environment's TOML" in (refused.value.hint or "")
    assert applied(conn) == ["001", "003"]
    asked = ours.model_copy(update={"deploy": ours.deploy.model_copy(update={"out_of_order": True})})
    plan = preview(asked)
    assert ([each.revision for each in plan.pending], plan.target_revision) == (["002"], "003")
    [rehearsed] = rehearse(conn, asked, plan.pending, {})
    assert rehearsed.down_seconds is not None
    assert check(asked).ok
    deploy(asked, drilled=False)
    assert applied(conn) == ["001", "002", "003"]
    assert verify(asked).ok
    assert recovered(asked).nothing
    assert rollback(asked, Request("revert")).reverted == ("002",), "the newest deploy's, not the highest number's"
    assert (applied(conn), state(ours)) == (["001", "003"], before)


def test_one_that_depends_on_the_order_fails_in_the_rehearsal(ours: Settings, conn: Connection) -> None:
    """A column's place cannot be altered: verify would find it elsewhere than the migrations put it."""
    write(ours, "003", "third")
    deploy(ours, drilled=False)
    write(ours, "002", "second")
    asked = ours.model_copy(update={"deploy": ours.deploy.model_copy(update={"out_of_order": True})})
    with pytest.raises(
        RehearsalFailed, match=r"column code_relationships\.second: expected after \S+, found after third"
    ):
        rehearse(conn, asked, preview(asked).pending, {})
