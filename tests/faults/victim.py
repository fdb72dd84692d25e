"""A process that is killed, or kills the server, at the Nth event of its work.

`python -m tests.faults.victim WHAT N TARGET`: WHAT is deploy, revert, restore, reset, "whole database" or recover; an
event is a line of the journal (before and after it is written) or the begin or end of tracked work; N = 0 only counts
them. TARGET is `self` (kill -9), or `PID:SIGNAL` of the server's postmaster: then this process lives on and meets the
loss.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from tasks.core.errors import OpsError
from tasks.core.operations import journal
from tasks.core.operations.rollback import Request
from tasks.core.progress import reporting
from tasks.core.settings import load_settings
from tests.faults import runs


class Killer:
    """Counts events, and strikes at the one that is its number."""

    def __init__(self, number: int, target: str) -> None:
        self.number, self.target, self.seen = number, target, 0

    def event(self) -> None:
        self.seen += 1
        if self.seen != self.number:
            return
        if self.target == "self":
            os.kill(os.getpid(), signal.SIGKILL)
        pid, _, number = self.target.partition(":")
        os.kill(int(pid), int(number))

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def watched(*args: Any, **words: Any) -> Any:
            self.event()
            result = function(*args, **words)
            self.event()
            return result

        return watched

    def started(self, key: str, title: str, total: float | None, unit: str) -> None:
        self.event()

    def finished(self, key: str, detail: str, ok: bool) -> None:
        self.event()

    def advanced(self, key: str, done: float, total: float | None) -> None: ...
    def noted(self, text: str) -> None: ...


def main(what: str, number: str, target: str) -> int:
    settings = load_settings("dev")
    work: dict[str, Callable[[], object]] = {
        "deploy": lambda: runs.deploy(settings),
        "revert": lambda: runs.rollback(settings, Request("revert", yes=True)),
        "restore": lambda: runs.rollback(settings, Request("restore", yes=True)),
        "reset": lambda: runs.rollback(settings, Request("reset", yes=True)),
        "whole database": lambda: runs.whole(settings),
        "recover": lambda: runs.recovered(settings),
    }
    killer = Killer(int(number), target)
    for name in ("begin", "write", "describe", "finish", "abandon"):
        setattr(journal, name, killer.around(getattr(journal, name)))
    try:
        with reporting(killer):
            work[what]()
    except OpsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(killer.seen)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
