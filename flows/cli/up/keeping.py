"""The life of `kg up` once its server is on its way: register, recover, work, watch, and stop in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

from prefect.client.orchestration import SyncPrefectClient, get_client

from flows.cli.signals import SAME_SECONDS
from flows.cli.up.registry import pause_pool, register, worker_is_online
from flows.cli.up.runs import Runs, Worker
from flows.cli.up.state import UpState
from flows.cli.up.verb import say
from tasks.core.errors import EngineFailed
from tasks.core.progress import track

if TYPE_CHECKING:
    from flows.cli.engine import OwnServer
    from tasks.core.settings import Environment

LOOK_SECONDS = 1.0
QUICK_SECONDS = 30.0  # a worker that lives shorter than this has a reason that a restart does not mend
QUICK_ENDS = 3


class Stops:
    """How often we were told to stop; signals that come together are one, as a terminal's Ctrl-C and its echo."""

    def __init__(self) -> None:
        self._times: list[float] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._times or now - self._times[-1] > SAME_SECONDS:
            self._times.append(now)

    @property
    def count(self) -> int:
        return len(self._times)


def keep(state: UpState, server: OwnServer | None, environments: list[Environment]) -> None:
    """Return when all has stopped in order. Raises EngineFailed where the server or the worker cannot be kept."""
    if server:
        with track("server", "Start the Prefect server"):
            server.wait()
    with get_client(sync_client=True) as client:
        with track("register", f"Register the deployments of {', '.join(environments)}"):
            register(client, environments)
        runs = Runs(client, state)
        for name in runs.crash_all():
            say(f"{name}: its process had died; it is marked Crashed")
        recover_first(state, environments)
        if state.paused:
            pause_pool(client, False)
            state.paused = False
        state.url = os.environ["PREFECT_API_URL"]
        state.save()
        _Keeper(client, state, server, runs).work()
    say("kg up: stopped")


def recover_first(state: UpState, environments: list[Environment]) -> None:
    """`kg recover` for each environment whose runs died, before the worker takes anything; a failure stays owed."""
    for environment in [name for name in environments if name in state.recover]:
        say(f"{environment}: recovering what the dead run had begun")
        command = [sys.executable, "-P", "-c", "from flows.cli import main; main()", "recover", environment]
        if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0:
            state.recover.remove(environment)
            state.save()
        else:
            say(f"{environment}: recover failed; run `kg recover {environment}`")


class _Keeper:
    """Watches the worker and the server, and ends them: the worker first, then the server (which its caller does)."""

    def __init__(self, client: SyncPrefectClient, state: UpState, server: OwnServer | None, runs: Runs) -> None:
        self._client, self._state, self._server, self._runs = client, state, server, runs
        self._stops = Stops()
        self._worker = Worker(state)
        self._ends: list[float] = []

    def work(self) -> None:
        try:
            while not (self._stops.count or worker_is_online(self._client)):
                self._look()
            say(f"kg up: {os.environ.get('PREFECT_UI_URL') or self._state.url}")
            say("  Ctrl-C waits for runs in progress, then stops")
            say(f"  for prefect's own commands: export PREFECT_API_URL={self._state.url}")
            while not self._stops.count:
                self._look()
            self._drain()
        finally:
            self._end()

    def _look(self) -> None:
        deadline = time.monotonic() + LOOK_SECONDS
        stops = self._stops.count
        while time.monotonic() < deadline and self._stops.count == stops:
            time.sleep(0.05)
        if self._server and self._server.ended is not None:
            raise EngineFailed(
                f"the Prefect server ended with {self._server.ended}",
                hint=f"{self._state.folder}/server.log has what it said; start kg up again",
            )
        self._runs.look(self._worker)
        for hung in self._runs.end_hanging():
            say(f"{hung} hung, its run counts as crashed: it was ended, so that recover has room")
        if self._worker.ended is not None:
            self._restart()

    def _restart(self) -> None:
        now = time.monotonic()
        self._ends = [then for then in self._ends if now - then < QUICK_SECONDS] + [now]
        if len(self._ends) >= QUICK_ENDS:
            raise EngineFailed(
                f"the worker ended {QUICK_ENDS} times within {QUICK_SECONDS:.0f} s",
                hint=f"{self._state.folder}/worker.log has what it said",
            )
        say(f"the worker ended with {self._worker.ended}; another one is started")
        self._worker.stop()
        self._worker = Worker(self._state)

    def _drain(self) -> None:
        """No new run; wait for those in progress until they have ended, or we are told to stop once more."""
        if not self._client.read_work_pool("kg").is_paused:
            self._state.paused = True
            self._state.save()
            pause_pool(self._client, True)
        named: dict[str, str] = {}
        while self._stops.count == 1:
            self._runs.look(self._worker)
            now = self._runs.under_way()
            if now.keys() != named.keys():
                say(f"stopping; waiting for {', '.join(now.values()) or 'nothing more'}")
                say("  (once more ends what is in progress, and marks it Crashed)")
            if not now:
                return
            named = now
            self._look()

    def _end(self) -> None:
        self._worker.stop()
        if self._server and self._server.ended is not None:
            return  # nobody to tell; the next start does
        for name in self._runs.crash_all():
            say(f"{name}: ended, and marked Crashed; the next kg up recovers first")
        if self._state.paused:
            pause_pool(self._client, False)
            self._state.paused = False
