"""A message as people read it: plain words first, links after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.core.notifications.events import WORDS, Event
from tasks.core.notifications.secrets import scrub
from tasks.core.settings import Environment

MOST_CHARACTERS = 3000  # chat services cut or refuse what is longer


@dataclass(frozen=True)
class Message:
    """`title` is one line; `body` is plain text."""

    environment: Environment
    event: Event
    title: str
    body: str


def compose(
    environment: Environment,
    event: Event,
    text: str,
    links: Mapping[str, str],
    variables: Mapping[str, str],
    flow: str = "",
) -> Message:
    """The message of a run of `flow`, without any secret that `variables` hold.

    A link is a line `name: address`, an empty one is none.
    """
    plain = scrub(text.strip(), variables)
    if len(plain) > MOST_CHARACTERS:
        plain = plain[:MOST_CHARACTERS] + " ..."
    after = [f"{name.replace('_', ' ')}: {scrub(link, variables)}" for name, link in links.items() if link]
    body = "\n".join([plain, "", *after]) if after else plain
    title = WORDS[event].format(flow=flow or "the run")
    return Message(environment, event, f"{environment}: {title}", body)
