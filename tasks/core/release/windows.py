"""Which time is open for a change: windows joined where they overlap, freezes cut out of them. Pure: `now` is given."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.core.release.rules import LONGEST, Freeze, WindowRule
from tasks.core.settings import Settings

HORIZON = timedelta(days=400)  # nobody waits for longer than a yearly window


@dataclass(frozen=True)
class Opening:
    """Open from `start` to (without) `end`, both in UTC."""

    start: datetime
    end: datetime

    def left(self, now: datetime) -> timedelta:
        """How much of it is still to come."""
        return self.end - max(self.start, now)

    def is_open(self, now: datetime) -> bool:
        return self.start <= now < self.end

    def __str__(self) -> str:
        day = "%H:%M" if self.end.date() == self.start.date() else "%Y-%m-%d %H:%M"
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end.strftime(day)} UTC"


def next_window(settings: Settings, now: datetime, needed: timedelta = timedelta(0)) -> Opening | None:
    """The opening that is open now with `needed` left of it, or the first to come that is long enough. None: there is
    none within 400 days, or this environment has no windows (then it is always open: see `has_windows`).
    """
    for opening in openings(settings.windows, settings.freeze, now):
        if opening.left(now) >= needed:
            return opening
    return None


def has_windows(settings: Settings) -> bool:
    """Does this environment say at all when it may be changed? A freeze alone says it too."""
    return bool(settings.windows or settings.freeze)


def openings(windows: Sequence[WindowRule], freezes: Sequence[Freeze], since: datetime) -> Iterator[Opening]:
    """What is open after `since`, by time; never two that touch (but that one is cut after 14 days), none empty.

    Without windows everything is open that no freeze shuts.
    """
    for opening in _joined(windows, since) if windows else iter([Opening(since, since + HORIZON)]):
        yield from _thawed(opening, freezes, since)


def _joined(windows: Sequence[WindowRule], since: datetime) -> Iterator[Opening]:
    start = end = None
    for opens, shuts in heapq.merge(*(rule.openings(since) for rule in windows)):
        if opens > since + HORIZON:
            break
        if start is None or end is None:
            start, end = opens, shuts
        elif opens <= end and end - max(start, since) < LONGEST:
            end = max(end, shuts)
        else:
            yield Opening(start, end)
            start, end = max(opens, end), max(shuts, end)
    if start is not None and end is not None:
        yield Opening(start, end)


def _thawed(opening: Opening, freezes: Sequence[Freeze], since: datetime) -> Iterator[Opening]:
    start = opening.start
    for freeze in sorted(freezes, key=lambda each: each.start):
        if freeze.end <= start or freeze.start >= opening.end:
            continue
        if freeze.start > max(start, since):
            yield Opening(start, freeze.start)
        start = max(start, freeze.end)
    if max(start, since) < opening.end:
        yield Opening(start, opening.end)
