"""How kg ends when it is told to: in order at the first signal, at once at the second."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

INTERRUPTED = 130
EXIT_SECONDS = 2.0  # what is left to do after an interrupt has been dealt with may take so long
SAME_SECONDS = 1.0  # signals that come together are one: a terminal's Ctrl-C, and `uv run` passing it on

_first: list[float] = []  # when the first signal came


def catch_signals() -> None:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt once: the flow run is marked Crashed, children are ended.

    A second one, later, ends the process on the spot. A signal that our parent ignores (nohup, a background job of a
    script) stays ignored. Prefect puts a SIGTERM handler of its own around a flow and passes the signal on to ours.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def finishing() -> None:
    """The answer is out: from here on a signal ends the process on the spot."""
    _first.append(float("-inf"))


def end_soon() -> None:
    """A thread or an exit handler that hangs must not keep an interrupted process; children see their pipes close."""
    timer = threading.Timer(EXIT_SECONDS, os._exit, (INTERRUPTED,))
    timer.daemon = True
    timer.start()


def _interrupt(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if not _first:
        _first.append(now)
        raise KeyboardInterrupt(signal.Signals(number).name)
    if now - _first[-1] > SAME_SECONDS:
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\n")  # a live display has hidden the cursor
        os._exit(INTERRUPTED)
