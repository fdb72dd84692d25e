"""The dead man's switch: a ping after each good nightly. When none comes, whoever listens raises the alarm.

That covers what no message can: the server, the scheduler or the whole machine is gone.
"""

from __future__ import annotations

import http.client
from urllib.request import Request, urlopen

from tasks.core.notifications.sending import in_threads
from tasks.core.settings import Environment

TIMEOUT_SECONDS = 5.0


def ping(url: str, environment: Environment) -> None:
    """GET `url`, in which {environment} stands for the environment's name. Bounded and silent as a message is."""
    in_threads([("KG_HEARTBEAT_URL", lambda: _get(url.replace("{environment}", environment)))])


def _get(url: str) -> bool:
    asked = Request(url, headers={"User-Agent": "kg-operations"})  # noqa: S310 - http(s) only: settings see to it
    with urlopen(asked, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
        return int(answer.status) < http.client.BAD_REQUEST
