"""`kg plan`: what a deploy would run, lock and endanger, said without touching anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import render
from tasks.core.documents import PlanDocument, to_json
from tasks.core.operations.outlook import outlook
from tasks.core.postgres.connections import Connection
from tasks.core.schema import hazards
from tasks.core.schema.hazards import lint
from tasks.core.schema.migrations import load_migrations
from tasks.core.settings import Settings
from tests.integration.graphs import deploy_graph
from tests.integration.schemas import HAND_RUN, MIGRATIONS, migrations_of

REVIEW = """ALTER TABLE code_patterns ADD COLUMN reviewed boolean;
CREATE INDEX code_patterns_reviewed_idx ON code_patterns (reviewed);
UPDATE code_patterns SET reviewed = false;
CREATE TABLE reviews (id int);
"""
CONCURRENT = "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY entity_idx ON code_relationships (target_entity);"


@pytest.fixture
def ahead(settings: Settings, tmp_path: Path) -> Settings:
    """Two migrations ahead of the first."""
    folder = tmp_path / "migrations"
    migrations_of(folder, REVIEW, CONCURRENT)
    return settings.model_copy(update={"migrations": folder})


def state(conn: Connection) -> object:
    return conn.execute("SELECT array_agg(oid ORDER BY oid) FROM pg_class").fetchone()


def test_locks_are_those_that_each_statement_takes(ahead: Settings, conn: Connection) -> None:
    deploy_graph(conn, ahead, rows=5)
    before = state(conn)
    document = PlanDocument.of(outlook(ahead))
    assert state(conn) == before
    assert (document.state, document.revision, document.target) == ("pending", "001", "003")
    review, concurrent = document.pending
    assert [(one.line, [(lock.table, lock.mode, lock.waits, lock.measured) for lock in one.locks])
            for one in review.statements] == [
        (1, [("code_patterns", "AccessExclusiveLock", "reads and writes", True)]),
        (2, [("code_patterns", "ShareLock", "writes", True)]),
        (3, [("code_patterns", "RowExclusiveLock", "other schema changes", True)]),
        (4, []),  # its table is new: nobody can wait for it
    ]  # fmt: skip
    [statement] = concurrent.statements
    assert [(lock.table, lock.mode, lock.measured) for lock in statement.locks] == [
        ("code_relationships", "ShareUpdateExclusiveLock", False)
    ]
    assert document.locks.startswith("measured on an empty scratch database, PostgreSQL ")
    assert not concurrent.transactional
    role = conn.execute("SELECT current_user || CASE WHEN rolsuper THEN ', a superuser' ELSE '' END FROM pg_roles"
                        " WHERE rolname = current_user").fetchone()  # fmt: skip
    assert role
    assert document.rehearsal == f"on a restored copy, with the rights of {role[0]}"
    assert to_json(document).isascii()


def test_whose_rights_a_rehearsal_takes_is_said_where_it_cannot_take_ours(ahead: Settings, conn: Connection) -> None:
    deploy_graph(conn, ahead, rows=1)
    assert ahead.address
    kept = ahead.model_copy(update={"scratch": ahead.address.database("postgres")})
    said = outlook(kept).rehearsal
    assert said.startswith(
        f"on a restored copy, with the rights of {ahead.address.user} on KG_SCRATCH_URL's server, not"
    )
    without = ahead.model_copy(update={"deploy": ahead.deploy.model_copy(update={"drill": False})})
    assert outlook(without).rehearsal == "none: a deploy to dev restores no copy to try it on"


def test_hazards_have_their_line_and_remedy(ahead: Settings) -> None:
    linted = lint(load_migrations(ahead.migrations), 18)
    assert linted.linter.startswith("squawk ")
    assert linted.hazards["001"] == ()
    [found] = linted.hazards["002"]
    assert (found.rule, found.line, found.column) == ("require-concurrent-index-creation", 2, 1)
    assert "concurrently" in found.remedy
    assert linted.hazards["003"] == ()


def test_without_the_linter_the_plan_says_so(ahead: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hazards.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    linted = lint(load_migrations(ahead.migrations), 18)
    assert not any(linted.hazards.values())
    assert "squawk is not installed" in linted.linter


def test_a_linter_that_fails_is_a_word(ahead: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "squawk"
    broken.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 2\n")
    broken.chmod(0o755)
    monkeypatch.setattr(hazards.sys, "executable", str(tmp_path / "python"))
    assert "no such option" in lint(load_migrations(ahead.migrations), 18).linter


def test_what_would_be_adopted(settings: Settings, conn: Connection) -> None:
    conn.execute(HAND_RUN.read_bytes())
    document = PlanDocument.of(outlook(settings))
    assert (document.adopted, document.pending, document.revision) == (("001",), (), None)
    assert document.tolerated


def test_a_migration_that_cannot_run_in_the_scratch_database_leaves_the_plan_standing(
    settings: Settings, conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    migrations_of(tmp_path / "migrations", "ALTER TABLE code_patterns ADD COLUMN a int;\nSELECT 1/0;")
    deploy_graph(conn, settings, rows=1)
    found = outlook(settings.model_copy(update={"migrations": tmp_path / "migrations"}))
    assert found.measured.failed == "002_change_something.up.sql:2:1: division by zero (22012)"
    assert len(found.measured.statements) == 0
    render.plan(PlanDocument.of(found))
    said = capsys.readouterr().out
    assert "\n✗ it fails where it was tried: 002_change_something.up.sql:2:1: division by zero (22012)\n" in said
    assert "a deploy tries it on a restored copy first; where it fails there too, nothing is changed" in said
    assert "\nrehearsal: on a restored copy, with the rights of " in said
    assert found.plan.target_revision == "002"


def test_nothing_pending(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings, rows=1)
    document = PlanDocument.of(outlook(settings))
    assert (document.state, document.pending, document.target) == ("nothing-pending", (), MIGRATIONS[0].revision)
