"""After a crash: the journal is read, and what the dead run had begun is finished or undone.

    begun, and in no transaction      undone by its other script, or else finished; ours that are INVALID are dropped
    several revisions, some applied   taken back to where the deploy had begun
    several revisions, some reverted  the rest is reverted too
    applied and not verified          verified: it stays, or is rolled back
    staging schemas, scratch databases  dropped

A script that is one transaction is there or not: the ledger tells. Only names in the journal are dropped; the rest is
reported with the command. Nothing depends on the dead run being marked: recover may die, and be run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sql import query
from tasks.core.errors import MigrationFailed, RollbackFailed, VerificationFailed
from tasks.core.operations import journal
from tasks.core.operations.migrate import our_fingerprint
from tasks.core.operations.missing import require_rows
from tasks.core.operations.operation import Operation
from tasks.core.operations.plan import known_expected
from tasks.core.operations.rollback import Request, revert_entries, roll_back, run_down
from tasks.core.operations.tidy import drop_leftovers
from tasks.core.postgres.connections import Connection
from tasks.core.progress import note
from tasks.core.schema import ledger
from tasks.core.schema.adoption import without_tolerated
from tasks.core.schema.catalog import read_catalog
from tasks.core.schema.compare import compare
from tasks.core.schema.expected import Expected
from tasks.core.schema.known import readable
from tasks.core.schema.migrations import Migration, apply
from tasks.core.schema.verify import Report, expectation, verify

_LOST = "it was begun, and its file cannot be used now: {}; bring back the file as it was, and run kg recover again"

What = Literal["finished", "undone", "rolled-back", "verified", "dropped", "reported"]


@dataclass(frozen=True)
class Action:
    """One thing that was done about `subject`; or only reported, with the `command` that does it."""

    what: What
    subject: str
    detail: str = ""
    command: str = ""


@dataclass(frozen=True)
class Recovered:
    """`dead` are the runs that never said how they ended; `fingerprint` and `revision` are of the schema now."""

    dead: tuple[journal.Unfinished, ...]
    actions: tuple[Action, ...]
    fingerprint: str
    revision: str

    @property
    def nothing(self) -> bool:
        return not (self.dead or self.actions)


def recover(operation: Operation) -> Recovered:
    """Finish or undo what earlier runs left, verify, and close their journals. Safe to run again at any time.

    Raises VerificationFailed where the database is not what its ledger says and nothing of a dead run explains it,
    RollbackFailed where the way back is barred: both name the state, and the dead run stays unfinished.
    """
    actions = [*settle(operation), *_verify_or_back(operation)]
    close(operation)
    with operation.session("recover") as conn:
        expected = known_expected(conn, operation.settings)
        entries = ledger.entries(conn)
        return Recovered(
            operation.abandoned,
            tuple(actions),
            our_fingerprint(conn, operation.settings.database.schema_name, expected),
            entries[-1].revision if entries else "",
        )


def settle(operation: Operation) -> tuple[Action, ...]:
    """All but verifying: afterwards the schema is the ledger's revision, and nothing of ours is left lying about."""
    with operation.session("recover") as conn:
        actions = [Action(*found) for found in drop_leftovers(operation, conn)]
        actions += _settle_scripts(operation, conn)
        for dead in operation.abandoned:
            actions += _half_done_revisions(operation, conn, dead)
    for action in actions:
        note(f"{action.what} {action.subject}{f': {action.detail}' if action.detail else ''}")
    return tuple(actions)


def close(operation: Operation) -> None:
    """The dead runs are settled: mark them so."""
    for dead in operation.abandoned:
        journal.abandon(operation.conn, dead.id)


def _settle_scripts(operation: Operation, conn: Connection) -> list[Action]:
    """What a script outside a transaction left half-done."""
    half_run, lost = _half_run(operation, conn)
    begun = [migration.revision for migration, _ in half_run]
    if not (begun or lost):
        return []
    try:
        # Of those too: the ledger does not know a revision whose script did not come to its end.
        expected = known_expected(conn, operation.settings, begun=begun)
    except MigrationFailed as edited:
        lost += [(revision, edited.message) for revision in begun]
        expected, half_run = known_expected(conn, operation.settings), []
    actions = list(_half_run_scripts(operation, conn, expected, half_run))
    if lost and not _as_the_ledger_says(operation, conn, expected):
        actions += [Action("reported", f"migration {revision}", _LOST.format(why)) for revision, why in lost]
    return actions


def _half_run(operation: Operation, conn: Connection) -> tuple[list[tuple[Migration, str]], list[tuple[str, str]]]:
    """Scripts outside a transaction that did not come to their end, with their way: what they did is in no ledger.
    Then the revisions that were begun and whose file is refused now, with the reason: nobody knows what they were.
    """
    entries = ledger.entries(conn)
    readable_files, refused = readable(operation.settings.migrations, entries)
    files, applied = {each.revision: each for each in readable_files}, {entry.revision for entry in entries}
    found, lost = [], []
    for revision, way, state in conn.execute(query("latest_scripts")).fetchall():
        migration = files.get(revision)
        if state == "done" or (way == "apply") is (revision in applied):
            continue
        if migration is None and refused:
            lost.append((revision, refused))
        script = migration and (migration.up_script if way == "apply" else migration.down_script)
        if migration and script and not script.transactional:
            found.append((migration, way))
    return found, lost


def _half_run_scripts(
    operation: Operation, conn: Connection, expected: Expected, found: list[tuple[Migration, str]]
) -> Iterator[Action]:
    for migration, way in found:
        if not _as_the_ledger_says(operation, conn, expected):
            yield _other_way(operation, conn, expected, migration, way)


def _other_way(operation: Operation, conn: Connection, expected: Expected, migration: Migration, way: str) -> Action:
    """Undo a half-run script by its other one; where there is none or it fails, finish it: it is re-runnable."""
    label = f"{'migration' if way == 'apply' else 'revert'} {migration.label}"
    try:
        if way == "apply":
            _run_down(operation, conn, migration, expected, in_ledger=False)
        else:
            _run_up(operation, conn, migration, in_ledger=True)
    except (MigrationFailed, RollbackFailed) as barred:
        note(f"{label} was begun and cannot be undone: {barred.message}")
        if way == "apply":
            _run_up(operation, conn, migration, in_ledger=False)
        else:
            _run_down(operation, conn, migration, expected, in_ledger=True)
        return Action("finished", label, "it had run half-way when its process ended")
    return Action("undone", label, "it had run half-way when its process ended")


def _run_up(operation: Operation, conn: Connection, migration: Migration, *, in_ledger: bool) -> None:
    def record(conn: Connection) -> None:
        if not in_ledger:
            ledger.record_applied(conn, migration, operation=operation.id)
        operation.guard(conn)

    with operation.step("apply", revision=migration.revision):
        apply(conn, migration, operation.settings.database, record)


def _run_down(
    operation: Operation, conn: Connection, migration: Migration, expected: Expected, *, in_ledger: bool
) -> None:
    def record(conn: Connection) -> None:
        if in_ledger:
            ledger.record_reverted(conn, migration.revision, operation=operation.id)
        operation.guard(conn)

    if migration.down_script is None:
        raise RollbackFailed(f"revision {migration.revision} has no down script")
    run_down(operation, conn, migration, expected, record, yes=False)


def _half_done_revisions(operation: Operation, conn: Connection, dead: journal.Unfinished) -> Iterator[Action]:
    """A run that went through several revisions and died among them, or on its way back."""
    detail: Mapping[str, Any] = dead.detail
    entries = {entry.revision: entry for entry in ledger.entries(conn) if entry.kind == "applied"}
    label = f"the {dead.kind} of {dead.started_at:%Y-%m-%d %H:%M} UTC"
    if "revert" in detail:
        remaining = [entries[each] for each in reversed(detail["revert"]) if each in entries]
        if remaining:
            expected = known_expected(conn, operation.settings)
            reverted = revert_entries(operation, conn, expected, remaining, yes=bool(detail.get("yes")))
            yield Action("finished", label, f"reverted {', '.join(reverted)}, as it was about to")
        return
    planned = detail.get("migrate", [])
    done = [entries[each] for each in planned if each in entries and entries[each].operation == dead.id]
    if not done or len(done) == len(planned):
        return
    try:
        reverted = revert_entries(operation, conn, known_expected(conn, operation.settings), done, yes=False)
    except RollbackFailed as barred:
        yield Action("reported", label, f"it applied {len(done)} of {len(planned)} revisions; {barred.message}")
        return
    yield Action("rolled-back", label, f"reverted {', '.join(reverted)}: it died before the last of {len(planned)}")


def _verify_or_back(operation: Operation) -> Iterator[Action]:
    """What was applied and never verified, or restored by a run that died, is verified now; or it goes."""
    with operation.session("recover") as conn:
        entries = ledger.entries(conn)
        unverified = [entry.revision for entry in entries if entry.verified_at is None]
        restored = any("restored_from" in dead.detail for dead in operation.abandoned)
        if not entries or not (unverified or restored):
            return
        failed = _failures(verify(operation.settings))
        if not failed:
            ledger.mark_verified(conn, unverified)
            yield Action("verified", f"revision {entries[-1].revision}", "applied by a run that died; it stays")
            return
    if not unverified:
        raise VerificationFailed(
            f"{operation.settings.environment} is not what its revision says: {failed}",
            hint=f"kg verify {operation.settings.environment} shows all of it; the replaced tables are kept",
        )
    note(f"revision {', '.join(unverified)} does not verify: {failed}")
    undone = roll_back(operation, Request("auto", only_operation=True))
    require_rows(operation.settings.environment, undone)
    yield Action("rolled-back", f"revision {', '.join(unverified)}", f"by {undone.strategy}: {failed}")


def _failures(report: Report) -> str:
    return "; ".join(f"{item.name}: {item.detail}" for item in report.checks if item.status == "failed")


def _as_the_ledger_says(operation: Operation, conn: Connection, expected: Expected) -> bool:
    """Not one object more or less than the newest applied revision has."""
    settings = operation.settings
    entries = ledger.entries(conn)
    actual = read_catalog(conn, settings.database.schema_name, expected.scope)
    if not entries:
        return not compare(expected.catalogs[""], actual)
    wanted = expectation(conn, settings, readable(settings.migrations, entries)[0], entries)
    return not without_tolerated(compare(wanted.catalog, actual), wanted.tolerated)
