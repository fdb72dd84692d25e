"""A stand-in for kg: `python sleeper.py SECONDS [SECONDS]` runs one flow that sleeps, through kg's own engine and
signals; the second figure is how long it takes to give up when it is interrupted.

It says on the error stream which server it uses and when the flow is under way.
"""

from __future__ import annotations

import sys
import time

from flows.cli.answer import answer
from flows.cli.engine import engine
from flows.cli.options import Output
from flows.cli.signals import catch_signals, finishing
from tasks.core.documents import FailureDocument


def work() -> list[FailureDocument]:
    with engine() as running:
        print("url", running.url, file=sys.stderr, flush=True)
        import logging

        from prefect import flow, task

        @task
        def say() -> None:
            logging.getLogger("tasks.core.example").info("said by core")

        @flow
        def sleeper(seconds: float) -> None:
            say()
            try:
                print("running", file=sys.stderr, flush=True)
                time.sleep(seconds)
            except BaseException:
                print("giving up", file=sys.stderr, flush=True)
                time.sleep(float(sys.argv[2]))
                raise

        running.ready()
        print("ready", file=sys.stderr, flush=True)
        sleeper(float(sys.argv[1]))
        return []


if __name__ == "__main__":
    catch_signals()
    status = answer(Output(json=True, verbose=False), work, print)
    finishing()
    sys.exit(status)
