"""People and clocks: a prepared deploy waits for them with neither lock nor connection held."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from prefect import pause_flow_run
from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from tasks.core.errors import OpsError, Refused
from tasks.core.markdown import inline
from tasks.core.progress import counted, note
from tasks.core.release import approvals
from tasks.core.release.approvals import Waiting
from tasks.core.release.describe import fitting
from tasks.core.release.windows import Opening, next_window
from tasks.core.settings import Environment, Settings, load_settings
from tasks.notices import tell
from tasks.release import heads_up, schedule_deploy

POLL_SECONDS = 2  # how often the paused run asks Prefect whether it goes on
ROWS = "(see kg_ops)"  # the name on a form that was sent because of a row


class Approval(RunInput):
    """The form of the paused run. Names are attested, not authenticated: see the README."""

    decision: Literal["approve", "reject"] = Field(description="Does this plan go on?")
    name: str = Field(description="Your name: not the one who started the deploy")
    note: str = Field("", description="For the ledger")


def await_approval(settings: Settings, plan: UUID) -> Waiting:
    """Return when enough people have agreed, by the run's form or `kg approve`. Raises Refused where one rejects it,
    the time is up, or another deploy was prepared meanwhile.
    """
    said, told = "", False
    while True:
        found = approvals.look(settings, plan)
        _go_on(settings, found)
        if not found.missing:
            return found
        if not told:
            _tell_approvers(settings, found)
            told = True
        answer = _ask(settings, found, said)
        if answer is None:
            continue
        try:
            approvals.decide(settings, plan, answer.decision, answer.name, answer.note)
        except OpsError as error:
            said = str(error)
            note(f"not counted: {said}")


def _tell_approvers(settings: Settings, found: Waiting) -> None:
    tell(
        settings.environment,
        "waiting-for-approval",
        f"A deploy that {found.started_by} has started waits for {counted(found.missing, 'approval')}, until "
        f"{found.expires_at:%Y-%m-%d %H:%M} UTC. It is predicted to take {found.predicted_seconds:.0f} s.",
        plan=found.hash,
        approve=f"kg approve {settings.environment} --name NAME",
    )


def _go_on(settings: Settings, found: Waiting) -> None:
    again = f"kg deploy {settings.environment} prepares it anew"
    if rejected := found.rejected:
        why = f": {rejected.note}" if rejected.note else ""
        raise Refused(f"plan {found.hash} was rejected by {rejected.name}{why}", hint=again)
    if found.state == "expired":
        raise Refused(
            f"plan {found.hash} has expired: {counted(found.missing, 'approval')} "
            f"did not come by {found.expires_at:%H:%M} UTC",
            hint=again,
        )
    if found.state not in approvals.OPEN:
        raise Refused(f"plan {found.hash} is {found.state}: another deploy was prepared since", hint="kg approvals")


def _ask(settings: Settings, found: Waiting, said: str) -> Approval | None:
    """Pause with the form until somebody fills it in; None where the answer came another way, or nobody came."""
    seconds = (found.expires_at - datetime.now(UTC)).total_seconds()
    if seconds <= 0:
        return None
    note(
        f"plan {found.hash} waits for {counted(found.missing, 'approval')} until "
        f"{found.expires_at:%Y-%m-%d %H:%M} UTC: "
        f"kg approve {settings.environment} --name NAME, or this run's form"
    )
    agreed = f"\n\nApproved so far by {inline(', '.join(found.approved_by))}." if found.approved_by else ""
    refused = f"\n\n⚠ Not counted: {inline(said)}" if said else ""
    form = Approval.with_initial_data(description=f"{fitting(found.document, settings.environment)}{agreed}{refused}")
    with _woken_by_rows(settings, found):
        try:
            answer = pause_flow_run(
                wait_for_input=form,
                timeout=max(1, int(seconds)),
                poll_interval=min(POLL_SECONDS, max(1, int(settings.approvals.poll.total_seconds()))),
            )
        except FlowPauseTimeout:
            approvals.move(settings, found.id, "expired")
            return None
    return None if answer.name == ROWS else answer


@contextmanager
def _woken_by_rows(settings: Settings, found: Waiting) -> Iterator[None]:
    """While the run is paused, a decision that comes as a row of kg_ops resumes it, as the form would have."""
    done, run = threading.Event(), flow_run.id

    def watch() -> None:
        while not done.wait(settings.approvals.poll.total_seconds()):
            try:
                now = approvals.watch(settings, found.id)
                if now.decisions != found.decisions or now.state not in approvals.OPEN:
                    _resume(str(run))
            except Exception as error:  # whatever it is, the next look may go well; the form works without it
                note(f"the decisions could not be read: {type(error).__name__}")

    thread = threading.Thread(target=contextvars.copy_context().run, args=(watch,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _resume(run: str) -> None:
    """Refused where it is not paused (yet, or any more): then the next look tries again."""
    with get_client(sync_client=True) as client:
        client.resume_flow_run(UUID(run), run_input={"decision": "reject", "name": ROWS, "note": ""})


def await_window(environment: Environment, plan: Waiting, terminate_idle_blockers: bool) -> Opening | None:
    """Return the opening that is open now and long enough; one that opens within `notice` is waited for here. None:
    the deploy is scheduled for a later one. Raises Refused where nothing could run it then.

    The settings are read at each look: windows and freezes may be written anew while it waits.
    """
    needed = plan.predicted_seconds
    while True:
        settings, now = load_settings(environment), datetime.now(UTC)
        opening = find_window(settings, plan, now)
        if opening.is_open(now):
            return opening
        if opening.start - now > settings.approvals.notice:
            _schedule(settings, plan, opening, terminate_idle_blockers)
            return None
        approvals.schedule(settings, plan.id, opening.start, opening.end)
        note(f"{environment} is changed in the window {opening} (about {needed:.0f} s): waiting for it")
        tell(
            environment,
            "window-soon",
            f"The window {opening} opens soon: a deploy waits for it, and is predicted to take {needed:.0f} s.",
            plan=plan.hash,
        )
        time.sleep(max(0.0, (opening.start - datetime.now(UTC)).total_seconds()))


def find_window(settings: Settings, plan: Waiting, now: datetime) -> Opening:
    """The first opening with room for the plan. Raises Refused where there is none in the next 400 days."""
    opening = next_window(settings, now, timedelta(seconds=plan.predicted_seconds))
    if opening is None:
        raise Refused(
            f"no maintenance window of {settings.environment} is long enough for the {plan.predicted_seconds:.0f} s "
            f"that plan {plan.hash} is predicted to take",
            hint="make a window longer in the environment's TOML, or override it with --now --reason TEXT",
        )
    return opening


def _schedule(settings: Settings, plan: Waiting, opening: Opening, terminate_idle_blockers: bool) -> None:
    environment = settings.environment
    run = schedule_deploy(environment, plan, heads_up(settings, opening.start), terminate_idle_blockers)
    if run is None:
        raise Refused(
            f"{environment} is not in a maintenance window with {plan.predicted_seconds:.0f} s left; the next is "
            f"{opening}, and no server with a worker for deploy/{environment} is there to run plan {plan.hash} then",
            hint="start `kg up` and deploy again, come back then, or override it with --now --reason TEXT",
        )
    approvals.schedule(settings, plan.id, opening.start, opening.end)
    note(f"scheduled for the window {opening}: flow run {run}")
    tell(environment, "scheduled", f"A deploy is scheduled for the window {opening}.", plan=plan.hash)
