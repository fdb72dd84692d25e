"""A few threads that work off a list of jobs; the first failure ends them all."""

from __future__ import annotations

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

Result = TypeVar("Result")

_MOST = 8
_PATIENCE_SECONDS = 10.0  # for threads that were told to stop
_TICK = 0.1


class Stopped(Exception):
    """Another job failed, or the block was left: this one ends, and nobody asks why."""


def workers() -> int:
    """How many streams run at once: one a core, but two where one waits for the server while the other packs."""
    return max(2, min(_MOST, len(os.sched_getaffinity(0))))


class Crew(Generic[Result]):
    """Daemon threads, so that a stalled one keeps no process from ending. A job is given the crew: it calls `check`
    often, which raises Stopped, and `advance` with the bytes that it has moved.
    """

    def __init__(self, jobs: Sequence[Callable[[Crew[Result]], Result]], name: str) -> None:
        self._jobs = deque(enumerate(jobs))
        self._results: dict[int, Result] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self.moved = 0
        self._threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(self._work,), daemon=True, name=f"{name}-{n}")
            for n in range(min(workers(), len(jobs)))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """On an exception the threads are stopped and, for a while, waited for: what they put can then be deleted."""
        if kind is None:
            return
        self._stopped.set()
        for thread in self._threads:
            thread.join(_PATIENCE_SECONDS)

    def check(self) -> None:
        """For jobs: raises Stopped when there is no use in going on."""
        if self._stopped.is_set():
            raise Stopped

    def advance(self, amount: int) -> None:
        with self._lock:
            self.moved += amount

    def raise_failure(self) -> None:
        """For the thread that made the crew: raises what the first failed job raised."""
        if self._error is not None:
            raise self._error

    def finish(self, report: Callable[[int], None]) -> list[Result]:
        """Wait for all; their results in the jobs' order. `report` is called now and then with the bytes moved."""
        for thread in self._threads:
            while thread.is_alive():
                thread.join(_TICK)
                report(self.moved)
                self.raise_failure()
        self.raise_failure()
        return [self._results[number] for number in sorted(self._results)]

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                number, job = self._jobs.popleft()
            except IndexError:
                return
            try:
                self._results[number] = job(self)
            except BaseException as error:  # handed to the thread that waits
                with self._lock:
                    self._error = self._error or error
                self._stopped.set()
