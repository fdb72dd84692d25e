"""`--remote`: the verb as a run of its deployment, by a worker of a server that is there, followed to its end."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.cli import tables
from flows.cli.answer import answer
from flows.cli.options import Output
from tasks.core import errors
from tasks.core.errors import EngineFailed, OpsError, Refused
from tasks.core.progress import note, say, track

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, Log

    from tasks.core.documents import RemoteDocument
    from tasks.core.settings import Environment, Settings

LOOK_SECONDS = 1.0
LAST_WORDS_SECONDS = 2.0  # a run's log is sent in batches: its last lines come after its end
_RAISED = re.compile(r"(?:Flow run|Task run) encountered an exception: (\w+): (.*)", re.DOTALL)


def on_worker(flow: str, environment: str, parameters: Callable[[Settings | None], dict[str, Any]]) -> RemoteDocument:
    """Run deployment `flow`/`environment` with `parameters`, which may ask a person first and are given the settings
    where this machine has them, and return when the run has Completed.

    Raises Refused where nobody would run it, and what the run has raised where it Failed.
    """
    from tasks.core.errors import SettingsError
    from tasks.core.settings import environment_named, load_settings

    name = environment_named(environment)
    with _server() as page:
        try:
            settings = load_settings(name)
        except SettingsError:
            settings = None  # the worker has them
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            deployment = _runnable(client, f"{flow}/{name}")
            run = client.create_flow_run_from_deployment(deployment, parameters=parameters(settings))
            try:
                return _followed(client, run, name, f"{flow}/{name}", page)
            except KeyboardInterrupt:
                note(f"nobody follows it any more; the run goes on: {page(run.id)}")
                raise


def answer_from_worker(
    output: Output, flow: str, environment: str, parameters: Callable[[Settings | None], dict[str, Any]]
) -> int:
    """A verb with `--remote`: `on_worker`, and its answer. The exit status is the run's."""
    return answer(output, lambda: on_worker(flow, environment, parameters), _show)


def _show(document: RemoteDocument) -> None:
    tables.say(f"{document.deployment} ended well: {document.page}")


@contextmanager
def _server() -> Iterator[Callable[[UUID], str]]:
    """A server that outlives this process; gives the address of a run's page on it. Raises Refused where none is."""
    from flows.cli.engine import engine
    from flows.cli.up.state import running_url

    if not (os.environ.get("PREFECT_API_URL") or running_url()):
        raise _nobody("no Prefect server: PREFECT_API_URL is not set, and no kg up is running")
    try:
        entered = engine()
        entered.__enter__()
    except EngineFailed as error:
        raise _nobody(error.message) from error
    try:
        from tasks.pages import run_page

        yield lambda run: run_page(run) or str(run)
    finally:
        entered.__exit__(None, None, None)


def _runnable(client: SyncPrefectClient, name: str) -> UUID:
    """The deployment's id, where a worker takes its runs now. Raises Refused."""
    from prefect.exceptions import ObjectNotFound

    from tasks.release import is_polled

    try:
        found = client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise _nobody(f"the Prefect server at {client.api_url} has no deployment {name}") from error
    pool = found.work_pool_name
    if pool and client.read_work_pool(pool).is_paused:
        raise _nobody(f"the work pool {pool} is paused: no run starts")
    if not is_polled(client, pool):
        raise _nobody(f"no worker takes the runs of {name}")
    return found.id


def _nobody(why: str) -> Refused:
    return Refused(f"{why}; nothing was started", hint="kg up")


def _followed(
    client: SyncPrefectClient, run: FlowRun, environment: Environment, deployment: str, page: Callable[[UUID], str]
) -> RemoteDocument:
    import httpx

    from tasks.core.documents import RemoteDocument, attach

    document = RemoteDocument(
        state="failed", environment=environment, deployment=deployment, flow_run=str(run.id), page=page(run.id)
    )
    note(f"{deployment}: {document.page}")
    try:
        with track("remote", f"Run {deployment}"):
            state = _wait(client, run.id)
            say(str(state.name))
            if not state.is_completed():
                raise _failure(state.name, state.message or "", environment, document.page)
    except httpx.TransportError as error:
        lost = EngineFailed(
            f"the Prefect server at {client.api_url} does not answer any more; the run may go on without it",
            hint=f"kg status {environment} says how the database stands; {document.page}",
        )
        attach(lost, document)
        raise lost from error
    except BaseException as error:
        attach(error, document)
        raise
    return document.model_copy(update={"state": "completed"})


def _wait(client: SyncPrefectClient, run: UUID) -> Any:
    """Show what the run says and which state it is in until it has ended; its last state."""
    said, lines = "", 0
    while True:
        state = client.read_flow_run(run).state
        assert state
        if state.is_final():
            time.sleep(LAST_WORDS_SECONDS)
        for line in _log(client, run, lines):
            lines += 1
            if _is_ours(line):
                note(line.message)
        if state.is_final():
            return state
        if state.name != said:
            said = state.name or ""
            note(f"the run is {said}{f': {state.message}' if state.message else ''}")
        time.sleep(LOOK_SECONDS)


def _log(client: SyncPrefectClient, run: UUID, known: int) -> Iterator[Log]:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
    while found := client.read_logs(only, offset=known, sort=LogSort.TIMESTAMP_ASC):
        known += len(found)
        yield from found


def _is_ours(line: Log) -> bool:
    """Not Prefect's own words about tasks that begin and end."""
    return line.name.partition(".")[0] in ("tasks", "flows")


def _failure(state: str | None, message: str, environment: Environment, page: str) -> OpsError:
    """What the run raised, as the kind of error that it was: so is the exit status."""
    if raised := _RAISED.match(message):
        kind = getattr(errors, raised[1], None)
        if isinstance(kind, type) and issubclass(kind, OpsError):
            return kind(raised[2], hint=page)
    crashed = f"kg recover {environment} settles what it had begun; " if state == "Crashed" else ""
    return OpsError(f"the run is {state}{f': {message}' if message else ''}", hint=f"{crashed}{page}")
