"""`kg` as a user runs it: in a process of its own, in a pipe or on a terminal, with none of the operator's settings."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

OURS = ("SUPABASE_", "STAGING_", "PRODUCTION_", "KG_", "PREFECT_")
MAIN = "from flows.cli import main; main()"


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without what kg reads, plus `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, "COLUMNS": "200", **variables}


def kg(*words: str, seconds: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one command line in a pipe, with nobody at the terminal."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def on_a_terminal(code: str, *words: str, typed: str = "", **variables: str) -> tuple[int, str]:
    """Run Python `code` with a pseudo-terminal of 70 columns as all three streams; its status, and what is shown."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=clean_environment(TERM="xterm-256color", LINES="40", **{"COLUMNS": "70", **variables}),
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    while part := _read(ours):
        shown += part
    os.close(ours)
    return child.wait(timeout=30), shown.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux's way to say that the other end is closed
        return b""
