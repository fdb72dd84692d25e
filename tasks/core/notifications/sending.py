"""Delivering: tried again when it fails, bounded in time, and never anybody else's failure.

A delivery runs in a thread of its own. Whoever sends waits for it a moment, so that the usual one is over when the work
goes on; a channel that stalls or fails is tried again meanwhile, and at the latest when the process ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache, partial

from tasks.core.notifications.events import BAD, GOOD, WARNING
from tasks.core.notifications.message import Message

log = logging.getLogger(__name__)

WAIT_SECONDS = 3.0  # what a message may hold the operation up, with all its channels
DEADLINE_SECONDS = 20.0  # from then on a message is given up; the process waits for it at its end
PAUSES = (1.0, 3.0, 6.0)  # before the second, third and fourth try

_THREAD = "kg-notice"
_under_way: list[tuple[threading.Thread, float]] = []


@dataclass(frozen=True)
class Channel:
    """`name` can be shown; `deliver` raises or returns False when the message did not get through."""

    name: str
    deliver: Callable[[Message], bool]


def send(message: Message, channels: Sequence[Channel]) -> None:
    """Deliver on all channels at once; returns after WAIT_SECONDS at most. Never raises."""
    in_threads([(one.name, partial(one.deliver, message)) for one in channels])


def in_threads(deliveries: Sequence[tuple[str, Callable[[], bool]]]) -> None:
    _keep_urls_out_of_logs()
    _wait_at_the_end()
    now = time.monotonic()
    _under_way[:] = [(thread, end) for thread, end in _under_way if thread.is_alive()]
    started = []
    for name, deliver in deliveries:
        # The context carries the run, so that a warning reaches its log.
        work = copy_context().run
        thread = threading.Thread(
            target=work, args=(_until_delivered, name, deliver, now + DEADLINE_SECONDS), name=_THREAD, daemon=True
        )
        thread.start()
        started.append(thread)
        _under_way.append((thread, now + DEADLINE_SECONDS))
    for thread in started:
        thread.join(max(0.0, now + WAIT_SECONDS - time.monotonic()))


def _until_delivered(name: str, deliver: Callable[[], bool], deadline: float) -> None:
    reason = "it was refused"
    for pause in (0.0, *PAUSES):
        if time.monotonic() + pause >= deadline:
            break
        time.sleep(pause)
        try:
            if deliver():
                return
        except Exception as error:
            # Its text may hold the address, and the address is the key to the channel.
            reason = type(error).__name__
    log.warning("%s could not be delivered to: %s. The operation goes on without", name, reason)


def apprise_channel(name: str, url: str) -> Channel | None:
    """A channel of an Apprise URL; None where Apprise cannot read it."""
    _keep_urls_out_of_logs()
    from apprise import Apprise, NotifyType

    service = Apprise()
    if not service.add(url):
        return None

    def deliver(message: Message) -> bool:
        kind = NotifyType.SUCCESS if message.event in GOOD else NotifyType.INFO
        kind = NotifyType.WARNING if message.event in WARNING else kind
        kind = NotifyType.FAILURE if message.event in BAD else kind
        return bool(service.notify(title=message.title, body=message.body, notify_type=kind))

    return Channel(name, deliver)


def _keep_urls_out_of_logs() -> None:
    """Libraries log the addresses that they call; from our threads they do not."""
    for name in ("apprise", "urllib3.connectionpool", "httpx", "requests"):
        logger = logging.getLogger(name)
        if _not_ours not in logger.filters:
            logger.addFilter(_not_ours)
    logging.getLogger("apprise").setLevel(logging.CRITICAL)


def _not_ours(record: logging.LogRecord) -> bool:
    return record.threadName != _THREAD


@cache
def _wait_at_the_end() -> None:
    """Before the threads end that send a run's log, so that it still gets the warnings: Prefect registers those in this
    way, too, and the last that is registered comes first. `atexit` would be too late.
    """
    threading._register_atexit(finish)  # type: ignore[attr-defined]


def finish() -> None:
    """What is still under way when the process ends has until its deadline."""
    for thread, deadline in _under_way:
        thread.join(max(0.0, deadline - time.monotonic()))
