"""The automation that tells of a dead worker, made on a real Prefect server; its channel reaches a real webhook."""

from __future__ import annotations

import json

import pytest

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
