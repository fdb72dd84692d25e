"""Verbs about deploys that wait for people: approve, approvals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import tables
from flows.cli.answer import answer
from flows.cli.confirm import confirm
from flows.cli.options import EnvironmentName, Json, Output, Verbose, Yes, flag
from flows.cli.plain import plain
from tasks.core.errors import Refused, UsageError

if TYPE_CHECKING:
    from tasks.core.documents import WaitingDocument
    from tasks.core.release.approvals import Waiting
    from tasks.core.settings import Settings

MaybeEnvironment = Annotated[
    str | None, typer.Argument(metavar="ENVIRONMENT", help="Default: each that can be reached.", show_default=False)
]
WaitingRun = Annotated[
    str | None, typer.Option("--run", metavar="ID", help="Flow run, or plan, of `kg approvals`. Default: what waits.")
]
ApproverName = Annotated[str, typer.Option("--name", metavar="NAME", help="Your name. Written into the ledger.")]
Reject = Annotated[bool, flag("--reject", help="Do not approve: end it.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why. Written into the ledger.")]


def approvals(environment: MaybeEnvironment = None, json: Json = False, verbose: Verbose = False) -> int:
    """Say which deploys wait for people or for their window, and who has decided what. Reads only."""

    def work() -> Sequence[WaitingDocument]:
        from tasks.core.documents import WaitingDocument

        return [
            WaitingDocument.of(each, deserted=each.deserted(settings))
            for settings in _environments(environment)
            for each in _waiting(settings)
        ]

    return answer(Output(json, verbose), work, show_approvals)


def approve(
    environment: EnvironmentName,
    name: ApproverName,
    run: WaitingRun = None,
    reject: Reject = False,
    note: Note = "",
    yes: Yes = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Approve (or reject) the deploy that waits: the same as the form of its run.

    Shows the plan first: what is pending, its SQL and hazards, what the rehearsal took and locked, the backup, the
    predicted duration and the window. The one who started it does not count.
    """

    def work() -> WaitingDocument:
        from tasks.core.documents import WaitingDocument
        from tasks.core.release.approvals import decide
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        chosen = _chosen(settings, run)
        if not yes:
            print(plain(chosen.document), file=sys.stderr)  # noqa: T201
            confirm(f"the {'rejection' if reject else 'approval'} of plan {chosen.hash}")
        decided = decide(settings, chosen.id, "reject" if reject else "approve", name, note)
        return WaitingDocument.of(decided, deserted=chosen.deserted(settings))

    return answer(Output(json, verbose), work, show_approval)


def show_approvals(documents: Sequence[WaitingDocument]) -> None:
    """What waits, for whom and until when."""
    if not documents:
        tables.say("nothing waits for an approval or a window")
        return
    rows = [
        (
            each.environment,
            each.plan,
            _standing(each),
            each.started_by,
            f"{sum(one.decision == 'approve' for one in each.decisions)} of {each.required}",
            f"{each.expires_at:%Y-%m-%d %H:%M}",
            each.flow_run or "-",
        )
        for each in documents
    ]
    tables.table(("environment", "plan", "state", "started by", "approved", "until (UTC)", "flow run"), rows)


def show_approval(document: WaitingDocument) -> None:
    """One line that says how the plan stands after a decision."""
    names = [one.name for one in document.decisions if one.decision == "approve"]
    missing = max(0, document.required - len(names))
    if document.state == "rejected":
        tables.say(f"plan {document.plan} of {document.environment} is rejected; nothing was changed")
    else:
        more = f"; {missing} more to come" if missing else _what_now(document)
        tables.say(f"plan {document.plan} of {document.environment} is approved by {', '.join(names)}{more}")
    if document.deserted:
        tables.say(f"its run no longer waits: it has crashed, was cancelled, or hangs{_taken_up(document, missing)}")


def _standing(document: WaitingDocument) -> str:
    if document.scheduled_for:
        return f"{document.state} for {document.scheduled_for:%Y-%m-%d %H:%M}"
    return f"{document.state}, deserted by its run" if document.deserted else document.state


def _what_now(document: WaitingDocument) -> str:
    if document.deserted:
        return ""
    return f"; it runs at {document.scheduled_for:%Y-%m-%d %H:%M} UTC" if document.scheduled_for else "; it goes on"


def _taken_up(document: WaitingDocument, missing: int) -> str:
    """Who goes on with a plan that its run has left."""
    if document.state == "rejected":
        return ""
    if missing:
        return "; when all have agreed, `kg deploy` takes it up; before that, it would ask anew"
    return f". To go on: kg deploy {document.environment}, which takes up this plan and its approvals"


def _chosen(settings: Settings, run: str | None) -> Waiting:
    found = [each for each in _waiting(settings) if run in (None, str(each.id), each.flow_run, each.hash)]
    if not found:
        wanted = f"{run} does not wait" if run else "nothing waits"
        raise Refused(f"{wanted} for an approval in {settings.environment}", hint="kg approvals shows what waits")
    if len(found) > 1:
        raise UsageError(f"{len(found)} deploys wait in {settings.environment}", hint="--run says which")
    return found[0]


def _waiting(settings: Settings) -> tuple[Waiting, ...]:
    from tasks.core.release.approvals import waiting

    return waiting(settings)


def _environments(named: str | None) -> list[Settings]:
    from typing import get_args

    from tasks.core.errors import NotConfigured
    from tasks.core.settings import Environment, load_settings

    if named:
        return [load_settings(named)]
    found = []
    for name in get_args(Environment):
        try:
            found.append(load_settings(name))
        except NotConfigured:  # this machine does not have its address
            continue
    return [settings for settings in found if settings.address is not None]
