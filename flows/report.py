"""A deploy's report on its page: what it came to, a timeline of its steps, and where the rest is to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.artifacts import deploy_artifact, link, run_link
from tasks.core.documents import DeployDocument
from tasks.core.markdown import inline

if TYPE_CHECKING:
    from flows.deployment import Deployment


def leave_report(run: Deployment, document: DeployDocument) -> None:
    """Also of a deploy that failed: how far it came, and the way back that it took."""
    plan = (
        f"{inline(document.plan)}; {link('its rehearsal', f'rehearsal-{run.environment}')}" if document.plan else "none"
    )
    lines = [
        ("state", document.state),
        ("error", inline(document.error.message) if document.error else ""),
        ("revision", inline(document.revision or "none")),
        ("plan", plan),
        ("applied", inline(", ".join(document.applied) or "none")),
        ("adopted", inline(", ".join(document.adopted) or "none")),
        ("backup", _backup(run.environment, document.backup)),
        ("rolled back", _rolled_back(run)),
        ("approved by", inline(", ".join(document.approved_by))),
        ("window", inline(run.opening) if run.opening else ""),
        ("window overridden", inline(run.override)),
        ("fingerprint before", document.fingerprint_before or ""),
        ("fingerprint after", document.fingerprint_after or ""),
        *(("rehearsed", inline(each)) for each in run.rehearsed),
        *(("warning", inline(text)) for text in run.warnings),
    ]
    deploy_artifact(run.environment, [line for line in lines if line[1]], run.step.seconds)


def _backup(environment: str, backup: str | None) -> str:
    if not backup:
        return "none"
    return f"{link(backup, f'backups-{environment}')}; {link('its drill', f'drill-{environment}')}"


def _rolled_back(run: Deployment) -> str:
    """Its result, and the run that did it, where Prefect still answered."""
    undone = run.undone
    if not undone:
        return ""
    result = link(f"by {undone.strategy}", f"rollback-{run.environment}")
    return f"{result}; {run_link('its run', undone.flow_run)}" if undone.flow_run else result
