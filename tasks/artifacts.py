"""What a run leaves on its page in the Prefect UI: tables and short reports under stable keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.core.backup.manifest import Backup
from tasks.core.backup.retention import RetentionPlan
from tasks.core.operations.rehearsal import Rehearsed
from tasks.core.operations.rollback import RolledBack
from tasks.core.schema.verify import Report
from tasks.core.settings import Environment
from tasks.core.vectors.advice import Advice

VERDICTS = {"ok": "✅ keep", "rebuild": "🔁 rebuild", "note": "ℹ note", "unknown": "⏭ not measured"}
MARKS = {"ok": "✅ ok", "failed": "❌ failed", "skipped": "⏭ skipped", "note": "ℹ note"}


def table(key: str, description: str, rows: Sequence[Mapping[str, object]]) -> None:
    """A table artifact; an empty one says so."""
    content = [dict(row) for row in rows] or [{"": "nothing"}]
    create_table_artifact(table=content, key=key_of(key), description=description)


def key_of(text: str) -> str:
    """As Prefect wants a key: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9-]", "-", text.lower())


def report_artifact(key: str, title: str, report: Report) -> None:
    rows = [
        {"check": item.name, "status": MARKS[item.status], "detail": item.detail, "remedy": item.remedy}
        for item in report.checks
    ]
    table(key, title, rows)


def drill_artifact(environment: Environment, backup: Backup) -> None:
    proof = backup.proof
    assert proof is not None
    rows = [
        {"table": name, "rows in the manifest": backup.manifest.tables.get(name), "rows restored": count}
        for name, count in proof.tables.items()
    ]
    spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in proof.seconds.items())
    table(f"drill-{environment}", f"Backup {backup.id} is {proof.grade} ({spent})", rows)


def rehearsal_artifact(environment: Environment, rehearsed: Sequence[Rehearsed]) -> None:
    rows = [
        {
            "migration": f"{each.revision}_{each.name}",
            "line": statement.line,
            "statement": statement.text,
            "seconds": statement.seconds,
            "rows changed": statement.rows,
            "locks": ", ".join(f"{lock.mode} on {lock.table}" for lock in statement.locks) or "none of ours",
        }
        for each in rehearsed
        for statement in each.statements
    ]
    table(f"rehearsal-{environment}", f"Rehearsal on the restored copy: {'; '.join(map(str, rehearsed))}", rows)


def retention_artifact(environment: Environment, plan: RetentionPlan, *, applied: bool) -> None:
    gone = "deleted" if applied else "delete (dry run)"
    decided = [(each, "keep") for each in plan.keep] + [
        (each, gone) for each in (*plan.delete, *plan.sweep, *plan.replaced)
    ]
    rows = [{"backup": each.id, "decision": decision, "reason": each.reason} for each, decision in decided]
    table(f"retention-{environment}", f"Retention of {environment}", rows)


def advice_artifact(environment: Environment, advice: Sequence[Advice]) -> None:
    """A line for each thing looked at of each index."""
    rows = [
        {
            "index": one.name,
            "measure": line.what,
            "found": line.figure,
            "verdict": VERDICTS[line.verdict],
            "why": line.why,
        }
        for one in advice
        for line in one.findings
    ]
    table(f"reindex-{environment}", f"Re-index advice for {environment}", rows)


def rollback_artifact(environment: Environment, undone: RolledBack) -> None:
    title = "Nothing to undo" if undone.nothing else f"Rolled back by {undone.strategy}"
    lines = [
        f"# {title}: {environment}",
        f"- revision now: `{undone.revision or 'none'}`",
        f"- fingerprint: `{undone.fingerprint}`",
        f"- reverted: {', '.join(undone.reverted) or 'none'}",
        f"- backup restored: {undone.backup or 'none'}",
        f"- replaced tables kept in: {undone.replaced or 'none'}",
        f"- {undone.detail}" if undone.detail else "",
    ]
    create_markdown_artifact("\n".join(filter(None, lines)), key=f"rollback-{environment}")


def deploy_artifact(environment: Environment, lines: Sequence[tuple[str, str]], seconds: Mapping[str, float]) -> None:
    """The deploy's report: what it did, and how long each step took."""
    text = [f"# Deploy of {environment}", "", "| | |", "|---|---|"]
    text += [f"| {name} | {value} |" for name, value in lines]
    text += ["", "| step | seconds |", "|---|---|"]
    text += [f"| {step} | {spent:.1f} |" for step, spent in seconds.items()]
    create_markdown_artifact("\n".join(text), key=f"deploy-{environment}")
