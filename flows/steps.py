"""The guide's numbered steps of one run: shown as they come, timed, and kept for the report."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.core.progress import Track, track

log = logging.getLogger(__name__)


class Steps:
    """`with steps("Back up"):` is step n of `total`; `seconds` has how long each one took."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, title: str) -> Iterator[Track]:
        while title in self.seconds:  # a plan that changed while people were asked is prepared again
            title += " again"
        number = len(self.seconds) + 1
        self.total = max(self.total, number)
        started = time.monotonic()
        self.seconds[title] = 0.0
        named = f"[{number}/{self.total}] {title}"
        log.info("%s", named)  # in the run's log, for whoever follows it elsewhere than in its terminal
        try:
            with track(f"step-{number}", named) as current:
                yield current
            log.info("%s: %s (%.1f s)", named, current.detail or "done", time.monotonic() - started)
        finally:
            self.seconds[title] = round(time.monotonic() - started, 3)
