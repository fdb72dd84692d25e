"""A deploy's report on its page: what it came to, a timeline of its steps, and where the rest is to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.artifacts import deploy_artifact
from tasks.core.documents import DeployDocument
from tasks.core.markdown import inline
from tasks.pages import Left, left_by, link, run_link

if TYPE_CHECKING:
    from flows.deployment import Deployment


def leave_report(run: Deployment, document: DeployDocument) -> None:
    """Also of a deploy that failed: how far it came, and the way back that it took."""
    left = _left(run, document)
    lines = [
        ("state", document.state),
        ("error", inline(document.error.message) if document.error else ""),
        ("revision", inline(document.revision or "none")),
        ("plan", _plan(run.environment, document.plan, left)),
        ("applied", inline(", ".join(document.applied) or "none")),
        ("adopted", inline(", ".join(document.adopted))),
        ("backup", _backup(run.environment, document.backup, left)),
        ("rolled back", _rolled_back(run, left)),
        ("approved by", inline(", ".join(document.approved_by))),
        ("window", inline(run.opening) if run.opening else ""),
        ("window overridden", inline(run.override)),
        ("fingerprint before", _short(document.fingerprint_before)),
        ("fingerprint after", _short(document.fingerprint_after)),
        *(("rehearsed", inline(each)) for each in run.rehearsed),
        *(("warning", inline(text)) for text in run.warnings),
    ]
    deploy_artifact(run.environment, [line for line in lines if line[1]], run.step.seconds)


def _left(run: Deployment, document: DeployDocument) -> Left:
    """The pages of this run, of the one that had prepared its plan, and of its way back."""
    stored = run.stored.flow_run if run.stored else None
    undone = run.undone.flow_run if run.undone else None
    keys = (f"{kind}-{run.environment}" for kind in ("plan", "rehearsal", "drill", "backups", "rollback"))
    return left_by([document.flow_run, stored, undone], keys)


def _plan(environment: str, plan: str | None, left: Left) -> str:
    if not plan:
        return "none"
    return f"{link(plan, f'plan-{environment}', left)}; {link('its rehearsal', f'rehearsal-{environment}', left)}"


def _backup(environment: str, backup: str | None, left: Left) -> str:
    """Its drill is its page: what it holds, table by table, and what was restored of it."""
    if not backup:
        return "none"
    return f"{link(backup, f'drill-{environment}', left)}; {link('all backups', f'backups-{environment}', left)}"


def _rolled_back(run: Deployment, left: Left) -> str:
    """Its result, and the run that did it, where Prefect still answered."""
    undone = run.undone
    if not undone:
        return ""
    result = link(f"by {undone.strategy}", f"rollback-{run.environment}", left)
    return f"{result}; {run_link('its run', undone.flow_run)}" if undone.flow_run else result


def _short(fingerprint: str | None) -> str:
    """Enough to see whether two are the same; all of it is in the ledger and in what --json prints."""
    return f"`{fingerprint[:_SHORT]}…`" if fingerprint else ""


_SHORT = 18  # characters: the version and 16 digits
