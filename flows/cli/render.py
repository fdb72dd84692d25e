"""Documents as text for people: tables that fit the terminal, aligned columns where there is none."""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.cli.display import age, duration, moment
from flows.cli.tables import say, table
from tasks.core.progress import counted, size

if TYPE_CHECKING:
    from tasks.core.documents import (
        BackupDocument,
        CheckItem,
        CommandDocument,
        DeployDocument,
        DrillDocument,
        IndexDocument,
        PlanDocument,
        PruneDocument,
        RecoverDocument,
        ReportDocument,
        RollbackDocument,
        SearchHit,
    )
    from tasks.core.documents.plan import PlannedMigration

_MARKS = {"ok": "✓", "failed": "✗", "skipped": "-", "note": "!"}
_COMMENT = re.compile(r"^(?:[rub]*[\"']+|[#/*!;<-]+|\s)+", re.IGNORECASE)  # what stands before its first word
_FEWEST_SHOWN = 16  # characters of a preview


def report(document: ReportDocument) -> None:
    """The checks of `kg check` and `kg verify`, and what they come to."""
    table(("", "check", "found"), [(_MARKS[item.status], item.name, _with_remedy(item)) for item in document.checks])
    failed = ", ".join(item.name for item in document.checks if item.status == "failed")
    notes = ", ".join(item.name for item in document.checks if item.status == "note")
    well = f"nothing failed; to be known (!): {notes}" if notes else "everything is in order"
    say(f"{document.environment}: " + (f"failed: {failed}" if failed else well))
    if document.next:
        say(f"next: {document.next}")


def plan(document: PlanDocument) -> None:
    """What would run, what it locks, what is dangerous about it, and how the gates stand."""
    now = f"{document.environment} (database {document.database}) is at revision {document.revision or 'none'}"
    if document.state == "nothing-pending":
        say(f"{now}; nothing is pending")
        return
    say(f"{now}; a deploy takes it to {document.target} (plan {document.plan})")
    for revision in document.adopted:
        say(f"\n{revision}: its tables are there; it is adopted without running")
        for line in document.tolerated:
            say(f"  accepted: {line}")
    for migration in document.pending:
        _planned(migration)
    if document.fails:
        say(f"\n✗ it fails where it was tried: {document.fails}")
        say("  a deploy tries it on a restored copy first; where it fails there too, nothing is changed")
    table(("", "gate", "now", "opened by"),
          [(_MARKS[gate.status], gate.name.removeprefix("gate: "), gate.detail, gate.remedy) for gate in document.gates]
          )  # fmt: skip
    say(f"rehearsal: {document.rehearsal}")
    say(f"locks: {document.locks}; hazards: {document.linter}")


def _planned(migration: PlannedMigration) -> None:
    how = [] if migration.transactional else ["statement by statement, outside a transaction"]
    how += ["irreversible: its way back is a restore"] if migration.irreversible else []
    said = f" ({'; '.join(how)})" if how else ""
    say(f"\n{migration.revision}_{migration.name}{said}")
    rows = [
        (
            str(statement.line),
            statement.text,
            f"{lock.table}{'' if lock.rows is None else f' (about {lock.rows:,} rows)'}",
            f"{lock.mode}{'' if lock.measured else ' (documented)'}",
            lock.waits,
        )
        for statement in migration.statements
        for lock in statement.locks
    ]
    table(("line", "statement", "locks", "mode", "who waits"), rows)
    if not rows:
        say("  no lock on a table that is there now" if migration.statements else "  its locks are not known")
    for hazard in migration.hazards:
        remedy = f" {hazard.remedy}" if hazard.remedy else ""
        say(f"  ! line {hazard.line}: {hazard.message}{remedy} [{hazard.rule}]")


def backup(document: BackupDocument) -> None:
    say(f"backup {document.id}: {size(document.stored_bytes)} stored, {_proof(document)}")
    table(("table", "rows"), [(name, f"{rows:,}") for name, rows in document.tables.items()])


def backups(documents: Sequence[BackupDocument]) -> None:
    if not documents:
        say("no backup yet: kg backup ENVIRONMENT makes one")
        return
    now = datetime.now(UTC)
    several = len({each.database for each in documents}) > 1
    rows = [
        (
            each.id,
            *([each.database or "-"] if several else []),
            f"{each.created:%Y-%m-%d %H:%M}",
            age(now - each.created),
            size(each.stored_bytes),
            f"{each.plain_bytes / each.stored_bytes:.1f}" if each.plain_bytes and each.stored_bytes else "-",
            each.revision or "-",
            _proof(each) + (", kept" if each.kept else ""),
        )
        for each in documents
    ]
    table(
        ("backup", *(["database"] if several else []), "created (UTC)", "age", "size", "ratio", "revision", "proved"),
        rows,
    )
    proved = [each for each in documents if each.proved_at]
    if proved:
        last = max(proved, key=lambda each: each.proved_at or each.created)
        assert last.proved_at
        takes = f", restore takes {duration(last.restore_seconds)}" if last.restore_seconds is not None else ""
        say(f"last proved {moment(last.proved_at, now)}{takes}")
    else:
        say("none is proved yet: kg restore-drill proves the newest")


def drill(document: DrillDocument) -> None:
    verdict = f"restores ({document.grade})" if document.ok else f"does NOT restore: {document.detail}"
    say(f"backup {document.backup} {verdict}")
    table(("table", "rows"), [(name, f"{rows:,}") for name, rows in document.tables.items()])
    table(("phase", "took"), [(phase, duration(seconds)) for phase, seconds in document.seconds.items()])


def deploy(document: DeployDocument) -> None:
    """One line that says where the database stands, and what was done."""
    revision = document.revision or "none"
    said = {
        "deployed": f"deployed; {document.environment} is at revision {revision}",
        "nothing-pending": f"nothing is pending; {document.environment} is at revision {revision}",
        "scheduled": f"scheduled as plan {document.plan}"
        + (f" for {document.scheduled_for:%Y-%m-%d %H:%M} UTC" if document.scheduled_for else ""),
        "waiting-approval": f"plan {document.plan} waits for an approval",
        "held": f"plan {document.plan} is held",
    }
    say(said.get(document.state, document.state))
    for word, revisions in (("applied", document.applied), ("adopted", document.adopted)):
        if revisions:
            say(f"  {word}: {', '.join(revisions)}")
    if document.backup:
        say(f"  backup: {document.backup}")
    if document.fingerprint_after:
        say(f"  fingerprint: {document.fingerprint_after}")
    if document.approved_by:
        say(f"  approved by: {', '.join(document.approved_by)}")
    for warning in document.warnings:
        say(f"  warning: {warning}")


def rollback(document: RollbackDocument) -> None:
    if document.state == "nothing-to-undo":
        say(f"nothing to undo{f': {document.detail}' if document.detail else ''}")
        return
    say(f"rolled back by {document.strategy}; {document.environment} is at revision {document.revision or 'none'}")
    for word, value in (
        ("reverted", ", ".join(document.reverted)),
        ("restored from", document.backup),
        ("replaced tables", _replaced(document.replaced)),
        ("detail", document.detail),
        ("fingerprint", document.fingerprint),
    ):
        if value:
            say(f"  {word}: {value}")


def _replaced(where: str | None) -> str:
    """A schema's name, or "database <name>"."""
    return f"schema {where}" if where and " " not in where else where or ""


def recover(document: RecoverDocument) -> None:
    where = f"{document.environment} is at revision {document.revision or 'none'}"
    if document.state == "nothing-to-recover":
        say(f"nothing to recover; {where}")
        return
    for dead in document.dead:
        who = f"process {dead.pid} on {dead.host}"
        say(f"a {dead.kind} of {dead.started:%Y-%m-%d %H:%M} UTC ({who}) died at {dead.step or 'its start'}")
    for action in document.actions:
        say(f"  {action.what} {action.subject}{f': {action.detail}' if action.detail else ''}")
        if action.command:
            say(f"    {action.command}")
    say(f"recovered; {where}")
    say(f"  fingerprint: {document.fingerprint}")


def prune(document: PruneDocument) -> None:
    done = "deleted" if document.applied else "would delete"
    rows = [
        (verb, item.id, size(item.stored_bytes) if item.stored_bytes is not None else "", item.reason)
        for verb, items in (("keep", document.keep), (done, document.delete), ("left alone", document.problems))
        for item in items
    ]
    if not rows:
        say("no backup yet: nothing to prune")
        return
    table(("", "what", "stored", "why"), rows)
    gone, kept = len(document.delete), f"{len(document.keep):,} kept"
    if document.applied:
        say(f"{gone:,} deleted, {kept}")
    elif gone:
        say(f"a dry run, nothing was deleted: kg prune {document.environment} --apply deletes {gone:,} ({kept})")
    else:
        say(f"a dry run: kg prune {document.environment} --apply would delete nothing ({kept})")


def index(document: IndexDocument | CommandDocument) -> None:
    from tasks.core.documents import CommandDocument

    if isinstance(document, CommandDocument):
        say(f"{document.command[0]} ended well after {duration(document.seconds)}")
        return
    say(
        f"indexed {document.indexed:,} of {document.files:,} files with {document.embedder} in "
        f"{duration(document.seconds)}: {document.unchanged:,} unchanged, {document.removed:,} removed, "
        f"{document.relationships:,} imports"
    )
    # A folder that is not entered is none of the files.
    reasons = Counter((each.path.endswith("/"), each.reason) for each in document.skipped)
    for (folder, reason), number in reasons.most_common():
        say(f"  {counted(number, 'folder' if folder else 'file')} left out: {reason}")


def search(hits: Sequence[SearchHit]) -> None:
    if not hits:
        say("nothing found")
        return
    headings = ("similarity", "file", "language", "preview")
    rows = [(f"{hit.similarity:.3f}", hit.file_path, hit.language or "") for hit in hits]
    # What is left of the line: two blanks stand between columns, in a table on a terminal three, and two at its ends.
    between = 3 if sys.stdout.isatty() else 2
    taken = sum(max(map(len, cells)) + between for cells in zip(headings[:3], *rows, strict=True))
    room = max(_FEWEST_SHOWN, shutil.get_terminal_size().columns - taken - 2)
    table(headings, [(*row, _opening(hit.preview or "", room)) for row, hit in zip(rows, hits, strict=True)])


def _opening(text: str, room: int) -> str:
    """How a file begins, on one line of at most `room` characters, without the marks of a comment."""
    body = text.partition("\n")[2] if text.startswith("#!") else text
    line = _COMMENT.sub("", " ".join(_printable(body).split()))
    return line if len(line) <= room else f"{line[: room - 1].rstrip()}…"


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _with_remedy(item: CheckItem) -> str:
    return f"{item.detail}; remedy: {item.remedy}" if item.remedy else item.detail


def _proof(document: BackupDocument) -> str:
    grade = f" ({document.grade})" if document.grade else ""
    return f"proved{grade}" if document.proved else "not proved"
