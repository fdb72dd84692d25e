"""What long work tells whoever watches: one reporter in a ContextVar, to which terminal and artifacts subscribe.

Core code calls `step`, `track` and `note`; without a subscriber they cost nothing. A thread of our own sees the
reporter only when it is started through `contextvars.copy_context().run`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Subscribers implement this. `key` is unique among what is under way."""

    def started(self, key: str, title: str, total: float | None, unit: str) -> None: ...
    def advanced(self, key: str, done: float, total: float | None) -> None: ...
    def finished(self, key: str, detail: str, ok: bool) -> None: ...
    def noted(self, text: str) -> None: ...


class Silent:
    """The reporter where nobody watches."""

    def started(self, key: str, title: str, total: float | None, unit: str) -> None: ...
    def advanced(self, key: str, done: float, total: float | None) -> None: ...
    def finished(self, key: str, detail: str, ok: bool) -> None: ...
    def noted(self, text: str) -> None: ...


class Both:
    """Two subscribers: the terminal and the run's artifacts, say."""

    def __init__(self, first: Reporter, second: Reporter) -> None:
        self._all = (first, second)

    def started(self, key: str, title: str, total: float | None, unit: str) -> None:
        for each in self._all:
            each.started(key, title, total, unit)

    def advanced(self, key: str, done: float, total: float | None) -> None:
        for each in self._all:
            each.advanced(key, done, total)

    def finished(self, key: str, detail: str, ok: bool) -> None:
        for each in self._all:
            each.finished(key, detail, ok)

    def noted(self, text: str) -> None:
        for each in self._all:
            each.noted(text)


_SILENT = Silent()
_reporter: ContextVar[Reporter] = ContextVar("reporter", default=_SILENT)

_under_way: ContextVar[Track | None] = ContextVar("under_way", default=None)


class Track:
    """One piece of work under way; `advance` by increments or `reach` an absolute figure."""

    def __init__(self, key: str, total: float | None) -> None:
        self.key, self.total, self.done, self.detail = key, total, 0.0, ""

    def advance(self, amount: float) -> None:
        self.reach(self.done + amount)

    def reach(self, done: float, total: float | None = None) -> None:
        self.done, self.total = done, total if total is not None else self.total
        _reporter.get().advanced(self.key, self.done, self.total)

    def say(self, detail: str) -> None:
        """What stands behind the finished line: a figure, a name."""
        self.detail = detail


@contextmanager
def track(key: str, title: str, *, total: float | None = None, unit: str = "") -> Iterator[Track]:
    """Report work with a known (or unknown) total. `unit` is "bytes", "rows" or a plain word."""
    current = Track(key, total)
    reporter = _reporter.get()
    reporter.started(key, title, total, unit)
    token = _under_way.set(current)
    try:
        yield current
    except BaseException:
        reporter.finished(key, current.detail, False)
        raise
    finally:
        _under_way.reset(token)
    reporter.finished(key, current.detail, True)


def say(detail: str) -> None:
    """What stands behind the finished line of the innermost work under way, said by whoever has done it."""
    if current := _under_way.get():
        current.say(detail)


def counted(number: int, noun: str) -> str:
    """'1 line', '2,035 lines'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(count: float) -> str:
    """Bytes for people, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def note(text: str) -> None:
    """One line worth reading while the work goes on; it is logged as well, so that it reaches the flow run's log."""
    log.info("%s", text)
    _reporter.get().noted(text)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Subscribe for the length of the block, beside whoever has subscribed before."""
    outer = _reporter.get()
    token = _reporter.set(reporter if isinstance(outer, Silent) else Both(outer, reporter))
    try:
        yield
    finally:
        _reporter.reset(token)
