"""What a dead run leaves, and what recover makes of it: each proved by the state at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.sql import SQL

from tasks.core.errors import CommandFailed, MigrationFailed, RollbackFailed, RowsMissing
from tasks.core.operations.migrate import our_fingerprint
from tasks.core.operations.operation import operation
from tasks.core.operations.plan import expected_of
from tasks.core.operations.rollback import Request
from tasks.core.postgres.connections import Connection
from tasks.core.settings import CHECKOUT, Settings
from tests.faults.proofs import unfinished
from tests.faults.runs import deploy, recovered, rollback, variables

ADDS = "ALTER TABLE code_patterns ADD COLUMN {0} boolean;"
DROPS = "ALTER TABLE code_patterns DROP COLUMN {0};"
TWO_INDEXES = """-- migrate: no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS code_patterns_first_idx ON code_patterns (pattern_type, language);
{between}
CREATE INDEX CONCURRENTLY IF NOT EXISTS code_patterns_second_idx ON code_patterns (language, pattern_type);
"""
# Only where the tables really are, not in the scratch schema where the expected form is made.
BREAKS = "SELECT 1 / (CASE WHEN current_schema() = 'public' THEN 0 ELSE 1 END);"
DROPS_TWO = """-- migrate: no-transaction
DROP INDEX CONCURRENTLY IF EXISTS code_patterns_second_idx;
DROP INDEX CONCURRENTLY IF EXISTS code_patterns_first_idx;
"""


def add(settings: Settings, revision: str, up: str, down: str) -> None:
    (settings.migrations / f"{revision}_change_patterns.up.sql").write_text(up)
    (settings.migrations / f"{revision}_change_patterns.down.sql").write_text(down)


def fingerprint(conn: Connection, settings: Settings) -> str:
    return our_fingerprint(conn, "public", expected_of(conn, settings))


def applied(conn: Connection) -> list[tuple[str, bool]]:
    return conn.execute(  # type: ignore[return-value]
        "SELECT revision, verified_at IS NOT NULL FROM kg_ops.ledger WHERE state = 'applied' ORDER BY 1"
    ).fetchall()


# Dies by kill -9 of itself at the first journal line of step {0} whose state is {1} (before it is written).
DYING = """
import os, signal, sys
from tasks.core.operations import journal
from tasks.core.settings import load_settings
from tests.faults.proofs import unfinished
from tests.faults.runs import *
seen, written = 0, journal.write
def write(conn, operation, step, state, detail):
    global seen
    if (step, state) == (sys.argv[1], sys.argv[2]):
        seen += 1
        if seen == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
    written(conn, operation, step, state, detail)
journal.write = write
{what}
"""


def dies(settings: Settings, what: str, step: str, state: str, occurrence: int = 1) -> None:
    """Run `what` in a child that kills itself just before the journal says that `step` is in `state`."""
    words = [sys.executable, "-c", DYING.format(what=what), step, state, str(occurrence)]
    done = subprocess.run(words, env=variables(settings), capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert done.returncode == -9, done.stderr


DEPLOY = 'deploy(load_settings("dev"), drilled=False)'
REVERT = 'rollback(load_settings("dev"), Request("revert", yes=True))'


def test_nothing_to_recover(ours: Settings, conn: Connection) -> None:
    before = fingerprint(conn, ours)
    done = recovered(ours)
    assert done.nothing
    assert (done.fingerprint, done.revision) == (before, "001")
    assert unfinished(conn) == 0


def test_what_was_applied_and_not_verified_is_verified_and_stays(ours: Settings, conn: Connection) -> None:
    add(ours, "002", ADDS.format("a"), DROPS.format("a"))
    dies(ours, DEPLOY, "apply", "done")
    assert applied(conn) == [("001", True), ("002", False)]
    assert unfinished(conn) == 1
    done = recovered(ours)
    assert [action.what for action in done.actions] == ["verified"]
    assert applied(conn) == [("001", True), ("002", True)]
    assert unfinished(conn) == 0
    assert recovered(ours).nothing


def test_what_was_applied_and_does_not_verify_is_rolled_back(ours: Settings, conn: Connection) -> None:
    before = fingerprint(conn, ours)
    add(ours, "002", ADDS.format("a"), DROPS.format("a") + " ALTER TABLE code_patterns DROP COLUMN IF EXISTS stray;")
    dies(ours, DEPLOY, "apply", "done")
    conn.execute("ALTER TABLE code_patterns ADD COLUMN stray int")
    done = recovered(ours)
    assert [action.what for action in done.actions] == ["rolled-back"]
    assert done.fingerprint == before == fingerprint(conn, ours)
    assert applied(conn) == [("001", True)]


def test_a_deploy_that_died_among_its_revisions_is_taken_back(ours: Settings, conn: Connection) -> None:
    before = fingerprint(conn, ours)
    add(ours, "002", ADDS.format("a"), DROPS.format("a"))
    add(ours, "003", ADDS.format("b"), DROPS.format("b"))
    dies(ours, DEPLOY, "apply", "started", 2)
    assert applied(conn) == [("001", True), ("002", False)]
    done = recovered(ours)
    assert [action.what for action in done.actions] == ["rolled-back"]
    assert fingerprint(conn, ours) == before


def test_a_rollback_that_died_among_its_revisions_is_finished(ours: Settings, conn: Connection) -> None:
    before = fingerprint(conn, ours)
    add(ours, "002", ADDS.format("a"), DROPS.format("a"))
    add(ours, "003", ADDS.format("b"), DROPS.format("b"))
    deploy(ours, drilled=False)
    dies(ours, REVERT, "revert", "started", 2)
    assert applied(conn) == [("001", True), ("002", True)]
    done = recovered(ours)
    assert [action.what for action in done.actions] == ["finished"]
    assert fingerprint(conn, ours) == before


def test_a_revert_that_rows_bar_reverts_none_of_its_revisions(ours: Settings, conn: Connection) -> None:
    add(ours, "002", "CREATE TABLE notes (id int PRIMARY KEY);", "DROP TABLE notes;")
    add(ours, "003", ADDS.format("b"), DROPS.format("b"))
    deploy(ours, drilled=False)
    after = fingerprint(conn, ours)
    conn.execute("INSERT INTO notes VALUES (1)")
    with pytest.raises(RollbackFailed, match="notes with 1 rows; nothing was changed"):
        rollback(ours, Request("revert"))
    assert fingerprint(conn, ours) == after
    assert len(applied(conn)) == 3


def test_a_reset_whose_indexing_failed_indexes_when_it_is_asked_again(
    ours: Settings, conn: Connection, tmp_path: Path
) -> None:
    flag, done = tmp_path / "flag", tmp_path / "done"
    script = f"test -e {flag} && touch {done} || {{ touch {flag}; exit 1; }}"
    application = ours.application.model_copy(update={"index_command": ("sh", "-c", script)})
    settings = ours.model_copy(update={"application": application})
    conn.execute("INSERT INTO code_embeddings (file_path, file_hash) VALUES ('a', '1')")
    with pytest.raises(CommandFailed):
        rollback(settings, Request("reset", yes=True))
    assert not done.exists()
    again = rollback(settings, Request("reset", yes=True))
    assert not again.nothing
    assert done.exists()
    assert rollback(settings, Request("reset", yes=True)).nothing


@pytest.mark.parametrize("way", ["deploy", "recover"])
def test_a_script_outside_a_transaction_that_died_half_way_is_undone(
    ours: Settings, conn: Connection, way: str
) -> None:
    before = fingerprint(conn, ours)
    add(ours, "002", TWO_INDEXES.format(between=BREAKS), DROPS_TWO)
    with pytest.raises(MigrationFailed):
        deploy(ours, drilled=False)
    assert fingerprint(conn, ours) != before
    if way == "deploy":
        with pytest.raises(MigrationFailed):
            deploy(ours, drilled=False)
    done = recovered(ours)
    assert [action.what for action in done.actions] == ["undone"]
    assert fingerprint(conn, ours) == before


def test_a_script_without_a_way_back_is_finished(ours: Settings, conn: Connection) -> None:
    add(ours, "002", TWO_INDEXES.format(between="SELECT 1;"), "SELECT no_such_function();")
    dies(ours, DEPLOY, "apply", "done")
    conn.execute("DELETE FROM kg_ops.ledger WHERE revision = '002'")
    conn.execute("DROP INDEX code_patterns_second_idx")
    done = recovered(ours)
    assert [action.what for action in done.actions] == ["finished", "verified"]
    assert applied(conn) == [("001", True), ("002", True)]


def test_a_way_back_that_fails_half_way_says_what_went(ours: Settings, conn: Connection) -> None:
    add(ours, "002", ADDS.format("second"), f"{DROPS.format('second')} SELECT 1 / 0;")
    add(ours, "003", ADDS.format("third"), DROPS.format("third"))
    deploy(ours, drilled=False)
    with pytest.raises(RollbackFailed, match=r"reverted 003, then: 002_change_patterns\.down\.sql:1:\d+: division"):
        rollback(ours, Request("revert"))
    assert applied(conn) == [("001", True), ("002", True)]
    assert recovered(ours).fingerprint == fingerprint(conn, ours)


def test_rows_that_a_dead_deploy_deleted_are_missed(ours: Settings, conn: Connection) -> None:
    conn.execute("INSERT INTO code_patterns (pattern_name, pattern_type, pattern_template, language)"
                 " VALUES ('a', '', '', ''), ('b', '', '', '')")  # fmt: skip
    deletes = (
        "DO $$ BEGIN IF current_schema() = 'public' THEN DELETE FROM code_patterns WHERE pattern_name = 'a';"
        " DROP INDEX code_patterns_language_idx; END IF; END $$;"  # the index, so that verify fails
    )
    add(ours, "002", deletes, "CREATE INDEX IF NOT EXISTS code_patterns_language_idx ON code_patterns (language);")
    dies(ours, DEPLOY.replace("drilled=False", "drilled=True"), "apply", "done")
    with pytest.raises(RowsMissing, match=r"back to revision 001 \(reverted 002\), but code_patterns has 1 rows of 2"):
        recovered(ours)
    assert applied(conn) == [("001", True)]
    recovered(ours)
    assert unfinished(conn) == 0


def test_leftovers_named_in_the_journal_go_and_others_are_reported(ours: Settings, conn: Connection) -> None:
    with operation(ours, "rollback") as held:
        held.write("stage", "started", {"schema": "kg_restore_0000aaaa"})
        held.write("apply", "started", {"revision": "999", "indexes": ["ours_idx"]})
    conn.execute("CREATE SCHEMA kg_restore_0000aaaa CREATE TABLE t (id int)")
    conn.execute("CREATE SCHEMA kg_restore_foreign")
    for name in ("ours_idx", "theirs_idx"):
        conn.execute(SQL("CREATE INDEX {} ON code_patterns (frequency)").format(SQL(name)))  # type: ignore[arg-type]
    conn.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid::regclass::text IN ('ours_idx', 'theirs_idx')"
    )
    done = recovered(ours)
    assert [(action.what, action.subject) for action in done.actions] == [
        ("dropped", "schema kg_restore_0000aaaa"),
        ("reported", "schema kg_restore_foreign"),
        ("dropped", "index ours_idx"),
        ("reported", "index theirs_idx"),
    ]
    assert [action.command for action in done.actions if action.what == "reported"] == [
        'DROP SCHEMA "kg_restore_foreign" CASCADE',
        'DROP INDEX CONCURRENTLY "public"."theirs_idx"',
    ]
    assert conn.execute("SELECT to_regclass('ours_idx'), to_regclass('theirs_idx')::text").fetchone() == (
        None,
        "theirs_idx",
    )
