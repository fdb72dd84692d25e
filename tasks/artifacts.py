"""What a run leaves on its page in the Prefect UI: tables and short reports under stable keys."""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Mapping, Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.core import drawing
from tasks.core.backup.manifest import Backup
from tasks.core.backup.retention import RetentionPlan
from tasks.core.markdown import code, inert, inline
from tasks.core.notifications.secrets import scrub
from tasks.core.operations.rehearsed import Rehearsed
from tasks.core.operations.rollback import RolledBack
from tasks.core.schema.verify import Report
from tasks.core.settings import Environment
from tasks.core.vectors.advice import Advice

log = logging.getLogger(__name__)

VERDICTS = {"ok": "✅ keep", "rebuild": "🔁 rebuild", "note": "ℹ note", "unknown": "⏭ not measured"}
_FIRST = ("failed", "note", "ok", "skipped")
MARKS = {"ok": "✅ ok", "failed": "❌ failed", "skipped": "⏭ skipped", "note": "ℹ note"}


def table(key: str, description: str, rows: Sequence[Mapping[str, object]]) -> None:
    """A table artifact; an empty one says so. Its cells are shown as they are, the description as Markdown."""
    content = [{name: shown(cell) for name, cell in row.items()} for row in rows] or [{"": "nothing"}]
    try:
        create_table_artifact(table=content, key=key_of(key), description=inline(description))
    except Exception as error:
        _not_left(key, error)


def leave(text: str, key: str, outcome: str = "") -> None:
    """A Markdown artifact; what is not ours in it has been through `core.markdown`. Lists show its heading, and the
    outcome where there is one.
    """
    heading = text.partition("\n")[0].lstrip("# ")
    try:
        create_markdown_artifact(text, key=key_of(key), description=f"{heading}: {outcome}" if outcome else heading)
    except Exception as error:
        _not_left(key, error)


def shown(said: object) -> object:
    """A cell. What a person typed or a server answered can hold a password, or a tag."""
    return inert(scrub(said, os.environ)) if isinstance(said, str) else said


def _not_left(key: str, error: Exception) -> None:
    # It tells of work that is done: that it cannot be left must not undo or fail that.
    log.warning("the artifact %s could not be left: %s", key, type(error).__name__)


def picture(png: bytes | None, words: str) -> list[str]:
    """A line of Markdown that holds the picture; without Pillow one that says so."""
    if png is None:
        return [] if drawing.available() else [f"No picture: {drawing.HINT}."]
    return [f"![{words}](data:image/png;base64,{base64.b64encode(png).decode()})"]


def key_of(text: str) -> str:
    """As Prefect wants a key: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9-]", "-", text.lower())


def report_artifact(key: str, title: str, report: Report) -> None:
    """What failed comes first, then what is worth knowing: the page shows ten rows, and cuts what is long."""
    rows = [
        {"check": item.name, "status": MARKS[item.status], "detail": item.detail, "remedy": item.remedy}
        for item in sorted(report.checks, key=lambda item: _FIRST.index(item.status))
    ]
    failed = "; ".join(str(item) for item in report.checks if item.status == "failed")
    table(key, f"{title}: {f'FAILED, {failed}' if failed else report.counted}", rows)


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
    decided += [(each, "left alone") for each in plan.problems]
    rows = [{"backup": each.id, "decision": decision, "reason": each.reason} for each, decision in decided]
    said = f"{len(plan.keep)} kept, {len(rows) - len(plan.keep) - len(plan.problems)} {gone}"
    table(f"retention-{environment}", f"Retention of {environment}: {said}", rows)


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
        f"- revision now: {code(undone.revision or 'none')}",
        f"- fingerprint: {code(undone.fingerprint)}",
        f"- reverted: {inline(', '.join(undone.reverted) or 'none')}",
        f"- backup restored: {inline(undone.backup or 'none')}",
        f"- replaced tables kept in: {inline(undone.replaced or 'none')}",
        f"- {inline(undone.detail)}" if undone.detail else "",
    ]
    leave("\n".join(filter(None, lines)), key=f"rollback-{environment}")


def deploy_artifact(environment: Environment, lines: Sequence[tuple[str, str]], seconds: Mapping[str, float]) -> None:
    """The deploy's report: what it came to (in Markdown), and a timeline of its steps (seconds each, one after the
    other).
    """
    text = [f"# Deploy of {environment}", "", "| | |", "|---|---|"]
    text += [f"| {name} | {value} |" for name, value in lines]
    text += ["", "| step | began after | took | |", "|---|--:|--:|---|", *timeline(seconds)]
    said = dict(lines)
    outcome = f"{said['state']}, revision {said['revision']}"
    leave("\n".join(text), f"deploy-{environment}", f"{outcome}; {said['error']}" if "error" in said else outcome)


def timeline(seconds: Mapping[str, float]) -> list[str]:
    """A row a step, with a bar where it lay in the whole."""
    whole, begun, rows = sum(seconds.values()) or 1.0, 0.0, []
    for step, spent in seconds.items():
        before, length = round(_BAR * begun / whole), max(1, round(_BAR * spent / whole))
        rows.append(f"| {step} | {begun:.1f} s | {spent:.1f} s | `{'·' * before}{'█' * length}` |")
        begun += spent
    return rows


_BAR = 30  # characters
