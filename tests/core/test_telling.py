"""The words of messages, each event by itself: what people get at a webhook."""

from __future__ import annotations

import pytest
from prefect.exceptions import Pause

from flows.telling import tell_old_proof, tell_pruned, tell_recovered, telling
from tasks.core.backup.retention import Decision, RetentionPlan
from tasks.core.documents import RecoverAction, RecoverDocument
from tasks.core.schema.report import Report, failed, ok
from tests.core.test_notices import Webhook, webhook

__all__ = ["webhook"]

ID = "20260101T020000Z-0123abcd"


@pytest.fixture
def told(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> Webhook:
    monkeypatch.setenv("KG_NOTIFY_URLS", f"json://{webhook.address}/")
    return webhook


@pytest.mark.parametrize("begun", [True, False])
def test_who_is_interrupted_says_so_and_whether_anything_was_begun(told: Webhook, begun: bool) -> None:
    interrupt = KeyboardInterrupt()
    setattr(interrupt, "__kg_begun__", begun)  # noqa: B010 - as the operation does
    with pytest.raises(KeyboardInterrupt), telling("dev", "rollback"):
        raise interrupt
    (message,) = told.received
    assert message["title"] == "dev: the run FAILED"
    assert message["message"].startswith("The rollback was interrupted. ")
    assert ("What it had begun is settled by kg recover dev" in message["message"]) == begun
    assert ("It had not begun to change the database." in message["message"]) == (not begun)


def test_a_pause_is_no_end(told: Webhook) -> None:
    with pytest.raises(Pause), telling("dev", "deploy"):
        raise Pause
    assert told.received == []


def test_a_recovery_without_a_dead_run_does_not_say_that_nothing_had_died(told: Webhook) -> None:
    done = RecoverAction(what="verified", subject="revision 003", detail="", command="")
    tell_recovered(RecoverDocument(state="recovered", environment="dev", actions=(done,), revision="003"))
    (message,) = told.received
    assert "No run had died, but one had left something to settle. What was done: verified rev" in message["message"]


def test_what_was_pruned_is_named_and_nothing_is_no_news(told: Webhook) -> None:
    kept = Decision("20260102T020000Z-0123abcd", "the newest proved")
    tell_pruned("dev", RetentionPlan(keep=(kept,), delete=()))
    assert told.received == []
    tell_pruned("dev", RetentionPlan(keep=(kept,), delete=(Decision(ID, "older than 7 days"),)))
    (message,) = told.received
    assert message["title"] == "dev: backups were pruned"
    assert message["message"].startswith("1 deleted by the retention, 1 backups kept.")
    assert f"deleted: {ID}" in message["message"]


def test_a_proof_that_is_too_old_is_told_with_what_to_do(told: Webhook) -> None:
    tell_old_proof("dev", Report((ok("proved backup", "2 hours old"), failed("schema", "another index"))))
    assert told.received == [], "only what this event is about"
    old = failed("proved backup", "the newest proved backup is 9 days old", "kg backup dev")
    tell_old_proof("dev", Report((ok("schema", "as revision 001 makes it"), old)))
    (message,) = told.received
    assert message["title"] == "dev: no backup was proved lately"
    assert message["message"].startswith("the newest proved backup is 9 days old.")
    assert "next: kg backup dev" in message["message"]
