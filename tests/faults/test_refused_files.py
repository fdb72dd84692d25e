"""A migration file that is refused, and merely pending, hinders neither a look at the database nor the way back."""

from __future__ import annotations

import pytest

from tasks.core.backup.dump import back_up
from tasks.core.errors import MigrationFailed, OpsError
from tasks.core.operations.plan import preview
from tasks.core.operations.rollback import Request
from tasks.core.operations.status import status_of
from tasks.core.postgres.connections import Connection
from tasks.core.progress import reporting
from tasks.core.schema.report import Report
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tests.faults.runs import deploy, recovered, rollback, variables
from tests.integration.applying import Notes
from tests.servers.job import state

ADDS, DROPS = "ALTER TABLE code_patterns ADD COLUMN {} int;", "ALTER TABLE code_patterns DROP COLUMN {};"
ALONE = "-- migrate: no-transaction\n"
UNDOES = f"{ALONE}DROP INDEX CONCURRENTLY IF EXISTS new_idx;"
# Only where the tables really are, not in the scratch schema where the expected form is made.
FAILS = "SELECT 1 / (CASE WHEN current_schema() = 'public' THEN 0 ELSE 1 END);"
DEAD = (
    "INSERT INTO kg_ops.operation (id, kind, environment, fence, host, pid, backend_pid)"
    " VALUES (gen_random_uuid(), 'deploy', 'dev', 1, 'here', 1, 1)"
)
REFUSED = {
    "kg's own": ("003_bad", "DROP SCHEMA kg_ops CASCADE;", "DROP of kg_ops"),
    "a number twice": ("0002_bad", "SELECT 1;", "two migrations have the number 2"),
    "misnamed": ("3-bad", "SELECT 1;", "3-bad.down.sql is not named like a migration"),
}


@pytest.fixture
def second(ours: Settings) -> Settings:
    """Deployed at revision 002."""
    write(ours, "002_first", ADDS.format("a"), DROPS.format("a"))
    deploy(ours, drilled=False)
    return ours


def write(settings: Settings, label: str, up: str, down: str = "SELECT 1;") -> None:
    (settings.migrations / f"{label}.up.sql").write_text(up)
    (settings.migrations / f"{label}.down.sql").write_text(down)


def revision_line(report: Report) -> str:
    return next(each.detail for each in report.checks if each.name == "revision")


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_file_hinders_no_look_and_no_way_back(
    second: Settings, conn: Connection, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    label, up, said = REFUSED[kind]
    write(second, label, up)
    with pytest.raises(OpsError, match=said):
        preview(second)
    report = verify(second)
    assert report.ok, report
    assert said in revision_line(report)
    conn.execute(DEAD)
    notes = Notes()
    with reporting(notes):
        done = recovered(second)
    assert any("died at its start" in line for line in notes.lines)
    assert ([dead.pid for dead in done.dead], done.revision) == ([1], "002")
    assert back_up(second).manifest.our_tables
    for name, value in variables(second).items():
        monkeypatch.setenv(name, value)
    found = status_of("dev")
    assert (found.revision, found.next) == ("002", "kg restore-drill dev")
    assert any(said in one for one in found.pending)
    assert rollback(second, Request("revert", yes=True)).reverted == ("002",)
    assert conn.execute("SELECT to_regclass('code_patterns')").fetchone() != (None,)


def test_a_file_that_was_edited_after_its_revert_hinders_nothing(second: Settings) -> None:
    rollback(second, Request("revert", yes=True))
    write(second, "002_first", "ALTER TABLE no_such_table ADD COLUMN a int;")
    assert recovered(second).revision == "001"
    (second.migrations / "002_first.up.sql").write_text("DROP SCHEMA kg_ops;")
    assert recovered(second).revision == "001"
    write(second, "002_first", ADDS.format("b"), DROPS.format("b"))
    deploy(second, drilled=False)
    assert verify(second).ok


@pytest.mark.parametrize("edited", ["SELECT 'half", f"{ALONE}SELECT no_such_function();"], ids=["refused", "failing"])
def test_what_a_begun_script_left_is_reported_while_its_file_is_no_use(
    second: Settings, conn: Connection, edited: str
) -> None:
    """And undone when it is there again."""
    before = state(second)
    begun = f"{ALONE}CREATE INDEX CONCURRENTLY IF NOT EXISTS new_idx ON code_patterns (language, frequency);\n{FAILS}"
    write(second, "003_index", begun, UNDOES)
    with pytest.raises(MigrationFailed, match="division by zero"):
        deploy(second, drilled=False)
    write(second, "003_index", edited, UNDOES)
    [reported] = recovered(second).actions
    assert (reported.what, reported.subject) == ("reported", "migration 003")
    assert "bring back the file as it was, and run kg recover again" in reported.detail
    write(second, "003_index", begun, UNDOES)
    [undone] = recovered(second).actions
    assert undone.what == "undone"
    assert (state(second), conn.execute("SELECT to_regclass('new_idx')").fetchone()) == (before, (None,))


def test_an_applied_file_that_is_refused_now_is_named(second: Settings) -> None:
    """Without it nobody knows what should be there."""
    (second.migrations / "002_first.up.sql").write_text("DROP SCHEMA kg_ops;")
    for look in (verify, recovered):
        with pytest.raises(MigrationFailed, match=r"002_first\.up\.sql:1:1: DROP of kg_ops"):
            look(second)
