"""What people are told of, and the words that a message about it begins with."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Event = Literal[
    "started",
    "waiting-for-approval",
    "scheduled",
    "window-soon",
    "succeeded",
    "failed",
    "rolled-back",
    "recovered",
    "backup-failed",
    "proof-too-old",
    "pruned",
]

# {flow} is the flow that tells it.
WORDS: dict[Event, str] = {
    "started": "{flow} started",
    "waiting-for-approval": "{flow} waits for an approval",
    "scheduled": "{flow} is scheduled",
    "window-soon": "its window opens soon",
    "succeeded": "{flow} succeeded",
    "failed": "{flow} FAILED",
    "rolled-back": "was rolled back",
    "recovered": "was recovered after a crash",
    "backup-failed": "the backup FAILED",
    "proof-too-old": "no backup was proved lately",
    "pruned": "backups were pruned",
}

# Apprise's kinds, which channels show as a colour.
BAD: frozenset[Event] = frozenset({"failed", "backup-failed", "proof-too-old"})
WARNING: frozenset[Event] = frozenset({"rolled-back", "recovered", "waiting-for-approval"})
GOOD: frozenset[Event] = frozenset({"succeeded"})


class NotificationSettings(BaseModel):
    """Who is told of what. Addresses come from KG_NOTIFY_URLS and from blocks saved on the Prefect server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: tuple[Event, ...] = Field(get_args(Event), description="These go to each address in KG_NOTIFY_URLS")
    blocks: dict[str, tuple[Event, ...]] = Field(
        default_factory=dict, description="<block type>/<name> of a saved notification block: the events it gets"
    )
