"""A deploy that people are asked about, on a real server: by the form of its run, and by `kg approve`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.documents import DeployDocument, attached
from tasks.core.errors import Refused
from tasks.core.postgres.connections import Connection
from tasks.core.release import approvals
from tasks.core.schema import ledger
from tasks.core.settings import Settings
from tests.flows.asking import Meanwhile, asked, asking, deploy, fill_in, release_of
from tests.processes import until
from tests.terminal import kg

__all__ = ["asking"]


def test_the_form_shows_the_plan_and_nothing_is_held(
    asking: Callable[..., None], dev: Settings, conn: Connection
) -> None:
    asking(1, whole=True)
    seen: dict[str, Any] = {}

    def approve() -> None:
        plan = asked(dev)
        seen["document"] = plan.document
        seen["sessions"] = conn.execute(
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'kg %' AND application_name NOT IN ('kg approvals', 'kg test')"
        ).fetchall()
        seen["locks"] = conn.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 27495"
        ).fetchone()
        fill_in(plan, "approve", "Grace Hopper", "read it all")

    with Meanwhile(approve):
        done = deploy()
    assert (done.state, done.applied, done.approved_by) == ("deployed", ("001",), ("Grace Hopper",))
    assert (seen["sessions"], seen["locks"]) == ([], (0,))
    for words in ("CREATE TABLE", "rehearsed 001", done.backup, "restorable", "predicted duration", "Ada Lovelace"):
        assert words in seen["document"]
    released = release_of(conn)
    assert [each["name"] for each in released["approved"]] == ["Grace Hopper"]
    assert released["approved"][0]["note"] == "read it all"
    assert (released["started_by"], released["plan"]) == ("Ada Lovelace", done.plan)
    assert done.warnings == ()
    assert "Back up again" not in done.seconds, "a fresh proof of the same state is good enough"


def test_two_approvers_by_form_and_terminal_and_not_the_starter(
    asking: Callable[..., None], dev: Settings, conn: Connection, variables: dict[str, str], tmp_path: Path
) -> None:
    asking(2)
    terminal = {**variables, "KG_ENVIRONMENTS": str(tmp_path / "environments")}
    said: list[str] = []

    def approve() -> None:
        fill_in(asked(dev), "approve", "ada lovelace")
        fill_in(asked(dev), "approve", "Grace Hopper")
        # The run writes down what its form was filled with, in its own time.
        until(lambda: asked(dev).approved_by == ("Grace Hopper",), seconds=60)
        waits = kg("approvals", "dev", **terminal)
        himself = kg("approve", "dev", "--name", "Ada Lovelace", "--yes", **terminal)
        other = kg("approve", "dev", "--name", "Barbara Liskov", "--yes", **terminal)
        said.extend([waits.stdout, himself.stderr, other.stdout])
        assert (waits.returncode, himself.returncode, other.returncode) == (0, 3, 0), (himself.stderr, other.stderr)

    with Meanwhile(approve):
        done = deploy()
    assert (done.state, done.approved_by) == ("deployed", ("Grace Hopper", "Barbara Liskov"))
    assert "1 of 2" in said[0]
    assert "does not count as its approver" in said[1]
    assert "approved by Grace Hopper, Barbara Liskov; it goes on" in said[2]
    assert [each["name"] for each in release_of(conn)["approved"]] == ["Grace Hopper", "Barbara Liskov"]
    assert approvals.waiting(dev) == ()


@pytest.mark.slow
def test_rejected_in_the_terminal(
    asking: Callable[..., None], dev: Settings, conn: Connection, variables: dict[str, str], tmp_path: Path
) -> None:
    asking(1)
    terminal = {**variables, "KG_ENVIRONMENTS": str(tmp_path / "environments")}

    def reject() -> None:
        asked(dev)
        done = kg("approve", "dev", "--name", "Grace", "--reject", "--note", "not on a Friday", "--yes", **terminal)
        assert "is rejected" in done.stdout, done.stderr

    with Meanwhile(reject), pytest.raises(Refused, match="rejected by Grace: not on a Friday") as refused:
        deploy()
    document = attached(refused.value)
    assert isinstance(document, DeployDocument)
    assert (document.state, document.applied) == ("refused", ())
    assert ledger.entries(conn) == ()


@pytest.mark.slow
def test_nobody_comes(asking: Callable[..., None], dev: Settings, conn: Connection) -> None:
    asking(1, expire="PT3S")
    with pytest.raises(Refused, match=r"has expired: 1 approval did not come"):
        deploy()
    assert ledger.entries(conn) == ()
    assert conn.execute("SELECT state FROM kg_ops.plans").fetchall() == [("expired",)]


@pytest.mark.slow
def test_a_plan_that_has_changed_is_asked_for_again(
    asking: Callable[..., None], dev: Settings, conn: Connection, migrations: Path
) -> None:
    asking(1)

    def approve() -> None:
        first = asked(dev)
        (migrations / "002_review.up.sql").write_text("ALTER TABLE code_patterns ADD COLUMN reviewed boolean;")
        (migrations / "002_review.down.sql").write_text("ALTER TABLE code_patterns DROP COLUMN reviewed;")
        fill_in(first, "approve", "Grace")
        second = asked(dev, after=first.hash)
        assert "ADD COLUMN reviewed" in second.document
        assert second.decisions == ()
        fill_in(second, "approve", "Barbara")

    with Meanwhile(approve):
        done = deploy()
    assert (done.applied, done.approved_by) == (("001", "002"), ("Barbara",))
    states = conn.execute("SELECT state FROM kg_ops.plans ORDER BY created_at").fetchall()
    assert states == [("superseded",), ("released",)]


def test_who_starts_it_says_so(asking: Callable[..., None], dev: Settings) -> None:
    from flows.deploy import deploy as flow

    asking(1)
    with pytest.raises(Refused, match="nobody says who starts this deploy"):
        flow(environment="dev")
