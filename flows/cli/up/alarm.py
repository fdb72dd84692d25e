"""The alarm of `kg up` for what no flow can tell of: no worker is left to run one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from tasks.core.notifications.addressees import load_addressees
from tasks.core.settings import Environment

_BLOCK = "kg-notify"


def save_addresses(environments: list[Environment]) -> None:
    """KG_NOTIFY_URLS as blocks on the Prefect server, encrypted there: its automation sends through them.

    Its Slack block hands any address to Apprise as it is; the server knows no block of our own. Raises SettingsError
    where the heartbeat's address is none: better now than after the first nightly.
    """
    for environment in environments:
        _ = load_addressees(environment).beat
    for number, url in enumerate(_urls(environments), 1):
        save: Any = SlackWebhook(url=SecretStr(url)).save
        save(f"{_BLOCK}-{number}", overwrite=True, _sync=True)


def missing_addresses(client: SyncPrefectClient, environments: list[Environment]) -> Iterator[str]:
    """Those of KG_NOTIFY_URLS that the server does not have, by their number: an address is a secret."""
    for number in range(1, len(_urls(environments)) + 1):
        try:
            client.read_block_document_by_name(f"{_BLOCK}-{number}", "slack-webhook")
        except ObjectNotFound:
            yield f"address {number} of KG_NOTIFY_URLS: not there, for the alarm about a dead worker"


def worker_alarm(client: SyncPrefectClient, pool: str, environments: list[Environment]) -> Iterator[AutomationCore]:
    """Nothing where nobody is to be told."""
    blocks = [f"slack-webhook/{_BLOCK}-{number}" for number in range(1, len(_urls(environments)) + 1)]
    blocks += [
        block
        for each in environments
        for block, events in load_addressees(each).settings.blocks.items()
        if "failed" in events
    ]
    actions = []
    for block in dict.fromkeys(blocks):
        kind, _, name = block.partition("/")
        try:
            found = client.read_block_document_by_name(name, kind)
        except ObjectNotFound:
            continue  # `kg up` saves ours first; another is the operator's, and each message through it says so
        actions.append(
            SendNotification(
                block_document_id=found.id,
                subject="kg: no worker is online",
                body=f"No worker polls the work pool {pool}: nothing starts until one does. Start "
                "`kg up`, or your worker, on its machine.",
            )
        )
    if actions:
        yield AutomationCore(
            name="kg: no worker is online",
            description="The work pool lost its last worker.",
            trigger=EventTrigger(
                expect={"prefect.work-pool.not-ready"},
                match={"prefect.resource.id": f"prefect.work-pool.{client.read_work_pool(pool).id}"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=actions,
        )


def _urls(environments: list[Environment]) -> list[str]:
    return [url.get_secret_value() for url in load_addressees(environments[0]).urls] if environments else []
