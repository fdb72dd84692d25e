"""The automation that tells of a dead worker, made on a real Prefect server; its channel reaches a real webhook."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

from tasks.core.notifications import sending
from tasks.core.settings import CHECKOUT
from tests.core.test_notices import Webhook, webhook

__all__ = ["webhook"]


def test_a_dead_worker_has_an_alarm(engine: None, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.blocks.core import Block
    from prefect.client.orchestration import get_client

    from flows.cli.up.alarm import save_addresses, worker_alarm
    from flows.cli.up.registry import POOL, make_automation, make_pool

    with get_client(sync_client=True) as client:
        make_pool(client)
        monkeypatch.delenv("KG_NOTIFY_URLS", raising=False)
        assert not list(worker_alarm(client, POOL, ["dev"])), "nobody is to be told"
        monkeypatch.setenv("KG_NOTIFY_URLS", f"json://{webhook.address}/path-of-the-hook")
        save_addresses(["dev"])
        save_addresses(["dev"])  # again: nothing is doubled
        (wanted,) = worker_alarm(client, POOL, ["dev"])
        make_automation(client, wanted)
        make_automation(client, wanted)
        (made,) = client.read_automations_by_name(wanted.name)
        assert made.enabled
        assert "path-of-the-hook" not in json.dumps(made.model_dump(mode="json")), "the address is in the block alone"
        document = client.read_block_document_by_name("kg-notify-1", "slack-webhook", include_secrets=False)
        assert "path-of-the-hook" not in json.dumps(document.model_dump(mode="json"))
    block = Block.load("slack-webhook/kg-notify-1")
    block.notify(subject=made.actions[0].subject, body=made.actions[0].body)
    assert webhook.received[0]["title"] == "kg: no worker is online"
    assert webhook.paths == ["/path-of-the-hook"]


def test_a_saved_block_gets_its_own_events(
    engine: None, webhook: Webhook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside KG_NOTIFY_URLS, and chosen apart; a block that nobody has saved fails nothing."""
    from prefect.blocks.notifications import SlackWebhook

    from tasks.notices import tell

    address = SecretStr(f"json://{webhook.address}/path-of-the-hook")
    SlackWebhook(url=address).save("operations", overwrite=True, _sync=True)  # type: ignore[call-arg]
    folder = shutil.copytree(CHECKOUT / "deployments" / "environments", tmp_path / "environments")
    text = (folder / "dev.toml").read_text()
    assert "[notifications.blocks]" not in text
    chosen = '"slack-webhook/operations" = ["failed"]\n"slack-webhook/nobody" = ["recovered"]\n'
    (folder / "dev.toml").write_text(f"{text}\n[notifications.blocks]\n{chosen}")
    monkeypatch.setenv("KG_ENVIRONMENTS", str(folder))
    monkeypatch.delenv("KG_NOTIFY_URLS", raising=False)
    tell("dev", "succeeded", "Nothing was pending.")
    assert webhook.received == []
    tell("dev", "failed", "The database does not answer.")
    assert [each["title"] for each in webhook.received] == ["dev: the run FAILED"]
    assert "The database does not answer." in webhook.received[0]["message"]
    monkeypatch.setattr(sending, "PAUSES", ())
    tell("dev", "recovered", "What had died: nothing.")
    assert "the Prefect block slack-webhook/nobody could not be delivered to: ValueError" in caplog.text
