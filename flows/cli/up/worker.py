"""The worker of `kg up`: `python -P -m flows.cli.up.worker POOL`, a process worker in a session of its own.

Prefect's worker that is terminated leaves its flows' processes to themselves. This one ends them first: in order at
SIGTERM, at once when its standard input closes, which the kernel sees to however `kg up` ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 5.0  # for a flow to roll back its transaction and let go of its lock


def main(pool: str) -> None:
    """Work until SIGTERM or the end of standard input."""
    signal.signal(signal.SIGTERM, _terminated)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from prefect.workers.process import ProcessWorker

    asyncio.run(ProcessWorker(work_pool_name=pool, create_pool_if_not_found=False).start(printer=lambda *_: None))


def children(parent: int) -> list[int]:
    """Processes whose parent is `parent`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if int(ppid) == parent and state != "Z":
            found.append(int(stat.parent.name))
    return found


def end_processes(pids: list[int], grace: float) -> None:
    """SIGTERM, and SIGKILL for who is stopped, or still there after `grace` seconds. Waits until all are gone."""
    _send([pid for pid in pids if _state(pid) == "T"], signal.SIGKILL)
    _send(pids, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            _send(pids, signal.SIGKILL)
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    return _state(pid) not in ("", "Z")


def _state(pid: int) -> str:
    """The kernel's letter for it: T is stopped, Z is dead and not waited for; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _terminated(number: int, frame: FrameType | None) -> None:
    end_processes(children(os.getpid()), GRACE_SECONDS)
    os._exit(0)


def _end_with_parent() -> None:
    """Standard input is a pipe from `kg up` that carries nothing. Twice: a flow may be about to start."""
    while os.read(0, 1024):
        pass
    for _ in range(2):
        _send(children(os.getpid()), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
