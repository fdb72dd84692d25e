"""The worker of `kg up` and the runs under it: which there are, which have died, and what is owed for those."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.cli.up.registry import POOL
from flows.cli.up.state import UpState
from flows.cli.up.worker import GRACE_SECONDS, children, end_processes, is_alive
from flows.guard import TAG

ASK_SECONDS = 2.0  # between two questions whether the runs of living processes count as crashed
REPORT_SECONDS = 15.0  # the worker says itself that a flow's process has died; after so long we do
_RUN_ID = b"PREFECT__FLOW_RUN_ID="


class Worker:
    """A process worker as a child of ours; its flows' processes are told by their environment."""

    def __init__(self, state: UpState) -> None:
        self._log = (state.folder / "worker.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.cli.up.worker", POOL],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"},
            start_new_session=True,
        )

    @property
    def ended(self) -> int | None:
        return self._process.poll()

    def runs(self) -> dict[str, int]:
        """Flow run id -> process id, of the flows under way below this worker."""
        if self.ended is not None:
            return {}
        found = {run_of(pid): pid for pid in children(self._process.pid)}
        return {run: pid for run, pid in found.items() if run}

    def stop(self) -> None:
        """It ends its flows' processes, then itself."""
        if self.ended is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=2 * GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        self._log.close()


class Runs:
    """What is under way, kept in the state file so that the next `kg up` knows it, however this one ended."""

    def __init__(self, client: SyncPrefectClient, state: UpState) -> None:
        self._client, self._state = client, state
        self._gone: dict[str, float] = {}
        self._asked = 0.0
        self._crashed: set[str] = set()  # by the last answer, with a process that lived

    def look(self, worker: Worker) -> None:
        """Note who has come and who has gone; who has gone without a word is marked Crashed."""
        before = dict(self._state.runs)
        self._state.runs.update(worker.runs())
        for run, pid in list(self._state.runs.items()):
            if run_of(pid) == run:
                continue
            since = self._gone.setdefault(run, time.monotonic())
            if self._is_over(run) or worker.ended is not None or time.monotonic() - since > REPORT_SECONDS:
                self._forget(run)
        if self._state.runs != before:
            self._state.save()

    def end_hanging(self) -> list[str]:
        """A process that hangs (stopped, say) sends no heartbeat, so that its run counts as crashed; but it still has
        its locks, and recover would be refused. It is ended, unless it ends by itself. Returns what it was of each.
        """
        if time.monotonic() - self._asked < ASK_SECONDS:
            return []
        self._asked = time.monotonic()
        crashed = {run: pid for run, pid in self._state.runs.items() if run_of(pid) == run and self._has_crashed(run)}
        hang = {run: pid for run, pid in crashed.items() if run in self._crashed}
        self._crashed = set(crashed)
        end_processes(list(hang.values()), GRACE_SECONDS)
        return [f"process {pid} of {self._describe(run)}" for run, pid in hang.items()]

    def under_way(self) -> dict[str, str]:
        """Flow run id -> its name and state, of the living."""
        return {run: self._describe(run) for run, pid in self._state.runs.items() if run_of(pid) == run}

    def crash_all(self) -> list[str]:
        """No worker lives: end what is left of its flows, mark them Crashed, and owe their environments a recover.

        Returns their names. One that said itself that it crashed, when it was ended, is among them.
        """
        end_processes([pid for run, pid in self._state.runs.items() if run_of(pid) == run], GRACE_SECONDS)
        names = []
        for run in list(self._state.runs):
            if found := self._forget(run):
                named = [tag.removeprefix(TAG) for tag in found.tags if tag.startswith(TAG)]
                self._state.recover = sorted({*self._state.recover, *named})
                names.append(found.name)
        self._state.save()
        return names

    def _forget(self, run: str) -> FlowRun | None:
        """Mark it Crashed, unless it is over. Returns it where it has crashed, by whose word ever."""
        self._gone.pop(run, None)
        self._state.runs.pop(run)
        with suppress(ObjectNotFound):
            found = self._client.read_flow_run(UUID(run))
            # Scheduled: it waits for a slot or its time, and no process belongs to that.
            if found.state is None or found.state.is_scheduled():
                return None
            if not found.state.is_final():
                message = "its process died with the worker; kg up marked it"
                self._client.set_flow_run_state(found.id, Crashed(message=message), force=True)
                return found
            return found if found.state.is_crashed() else None
        return None

    def _is_over(self, run: str) -> bool:
        try:
            state = self._client.read_flow_run(UUID(run)).state
        except ObjectNotFound:
            return True
        return state is None or state.is_final()

    def _has_crashed(self, run: str) -> bool:
        with suppress(ObjectNotFound):
            state = self._client.read_flow_run(UUID(run)).state
            return bool(state and state.is_crashed())
        return False

    def _describe(self, run: str) -> str:
        with suppress(ObjectNotFound):
            found = self._client.read_flow_run(UUID(run))
            waits = " (waits for an answer)" if found.state and found.state.is_paused() else ""
            return f"{found.name}{waits}"
        return run


def run_of(pid: int) -> str:
    """The flow run that the process carries out, by its environment; empty for none. When a run has died, the worker
    has another process look for its hooks: that one is none.
    """
    if not is_alive(pid):
        return ""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    if b"hook" in words:
        return ""
    return next((each.removeprefix(_RUN_ID).decode() for each in variables if each.startswith(_RUN_ID)), "")
