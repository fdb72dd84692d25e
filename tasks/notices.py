"""Telling people: one call from any flow, which never fails and hardly waits."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from prefect.blocks.core import Block
from prefect.runtime import flow_run
from prefect.settings import PREFECT_SERVER_UI_ENABLED

from tasks.core.notifications.addressees import Addressees, load_addressees
from tasks.core.notifications.events import Event
from tasks.core.notifications.heartbeat import ping
from tasks.core.notifications.message import Message, compose
from tasks.core.notifications.sending import Channel, apprise_channel, send
from tasks.core.settings import Environment
from tasks.pages import run_page

log = logging.getLogger(__name__)


def tell(environment: Environment, event: Event, text: str, **links: str) -> None:
    """Tell whoever the environment's settings name for `event`. Never raises; returns after a few seconds at most.

    `text` is plain words; each of `links` becomes a line after it. The run's own page is added where it is known.
    """
    try:
        addressees = load_addressees(environment)
        channels = _channels(addressees, event)
        if channels:
            named = flow_run.flow_name or ""
            send(compose(environment, event, text, {**links, "run": _run_page()}, os.environ, named), channels)
    except Exception as error:
        # Nothing that goes wrong with a message may reach the operation; its text could hold an address.
        log.warning("nobody was told that %s %s: %s", environment, event, type(error).__name__)


def report_nightly(environment: Environment) -> None:
    """Ping KG_HEARTBEAT_URL: a nightly has ended well. Never raises."""
    try:
        if address := load_addressees(environment).beat:
            ping(address, environment)
    except Exception as error:
        log.warning("no heartbeat for %s: %s", environment, type(error).__name__)


def _channels(addressees: Addressees, event: Event) -> list[Channel]:
    found: list[Channel] = []
    for number, url in enumerate(addressees.urls if event in addressees.settings.events else (), 1):
        if channel := apprise_channel(f"address {number} of KG_NOTIFY_URLS", url.get_secret_value()):
            found.append(channel)
        else:
            log.warning("address %d of KG_NOTIFY_URLS is none that Apprise knows: nobody is told there", number)
    for block, events in addressees.settings.blocks.items():
        if event in events:
            found.append(Channel(f"the Prefect block {block}", _through_block(block)))
    return found


def _through_block(name: str) -> Callable[[Message], bool]:
    def deliver(message: Message) -> bool:
        load: Any = Block.load  # synchronous when told so, which its types do not know
        block = load(name, _sync=True)
        with block.raise_on_failure():
            block.notify(body=message.body, subject=message.title, _sync=True)
        return True

    return deliver


def _run_page() -> str:
    """The address of the flow run's page; empty outside of a run, and where no server shows pages."""
    if not (flow_run.id and PREFECT_SERVER_UI_ENABLED.value()):
        return ""
    return run_page(flow_run.id)
