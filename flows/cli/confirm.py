"""Asking a person, on the terminal's error stream, so that standard output stays the document's."""

from __future__ import annotations

import sys

from tasks.core.errors import NotConfirmed

QUESTION = "Continue? (yes/no): "


def confirm(what: str) -> None:
    """Return when a person has answered yes. `what` completes "... was not confirmed".

    Raises NotConfirmed where the answer is no, or nobody is there to answer.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotConfirmed(
            f"{what} was not confirmed: nobody is at the terminal",
            hint="--yes confirms it; run in a terminal it is asked",
        )
    while True:
        sys.stderr.write(QUESTION)
        sys.stderr.flush()
        line = sys.stdin.readline()
        answer = line.strip().lower()
        if answer in ("yes", "y"):
            return
        if answer in ("no", "n") or not line:
            raise NotConfirmed(f"{what} was not confirmed; nothing was done")
        sys.stderr.write("Please answer yes or no.\n")
