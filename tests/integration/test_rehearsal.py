"""The rehearsal: what fails on the copy, up or down, never reaches the database; what passes leaves its figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find
from tasks.core.errors import OpsError, RehearsalFailed
from tasks.core.operations.outlook import outlook
from tasks.core.operations.rehearsal import rehearse, rehearse_on
from tasks.core.operations.rehearsed import Rehearsed
from tasks.core.operations.rights import Stand
from tasks.core.postgres.connections import Connection
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.schema.migrations import Migration, load_migrations
from tasks.core.settings import CHECKOUT, Settings
from tasks.core.store.base import open_store
from tests.integration.graphs import ROWS, deploy_graph
from tests.integration.schemas import HAND_RUN

pytestmark = pytest.mark.slow

UP = "ALTER TABLE code_embeddings ADD COLUMN reviewed boolean;\nUPDATE code_embeddings SET reviewed = false;"
DOWN = "ALTER TABLE code_embeddings DROP COLUMN reviewed;"


def ahead_of(settings: Settings, folder: Path, up: str, down: str | None = DOWN) -> Settings:
    ahead = folder / "migrations"
    shutil.copytree(CHECKOUT / "sql" / "migrations", ahead, dirs_exist_ok=True)
    (ahead / "002_change_something.up.sql").write_text(up)
    if down is not None:
        (ahead / "002_change_something.down.sql").write_text(down)
    return settings.model_copy(update={"migrations": ahead})


def pending(settings: Settings) -> Sequence[Migration]:
    return load_migrations(settings.migrations)[1:]


def on_copy(conn: Connection, settings: Settings) -> tuple[Rehearsed, ...]:
    """The test's database stands for the copy."""
    return rehearse(conn, settings, pending(settings), {"public.code_embeddings": ROWS})


def state(conn: Connection) -> str:
    return fingerprint(read_catalog(conn, "public"))


def test_up_and_down_with_figures(settings: Settings, conn: Connection, tmp_path: Path) -> None:
    deploy_graph(conn, settings)
    before = state(conn)
    [found] = on_copy(conn, ahead_of(settings, tmp_path, UP))
    assert state(conn) == before
    add, update = found.statements
    assert [(lock.table, lock.mode) for lock in add.locks] == [("code_embeddings", "AccessExclusiveLock")]
    assert (update.rows, update.seconds > 0) == (ROWS, True)
    assert found.down_seconds is not None
    assert found.up_seconds >= update.seconds
    assert found.rows == {"code_embeddings": ROWS}
    assert f"AccessExclusiveLock on code_embeddings ({ROWS} rows)" in str(found)
    assert json.loads(json.dumps(found.to_detail()))["statements"][1]["rows"] == ROWS


def test_rows_that_it_changes_are_told_by_whatever_way_it_does(
    settings: Settings, conn: Connection, tmp_path: Path
) -> None:
    """A block's or a trigger's rows are in no statement's count, and who approves must know."""
    deploy_graph(conn, settings)
    ways = """CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            DELETE FROM code_relationships WHERE source_file = OLD.file_path; RETURN NULL; END $$;
        CREATE TRIGGER follow AFTER DELETE ON code_embeddings FOR EACH ROW EXECUTE FUNCTION follow();
        DO $$ BEGIN DELETE FROM code_embeddings WHERE id <= 3; UPDATE code_embeddings SET language = 'c' WHERE id = 9;
        END $$; DROP TRIGGER follow ON code_embeddings; DROP FUNCTION follow();"""
    [found] = on_copy(conn, ahead_of(settings, tmp_path, f"-- migrate: irreversible\n{ways}", None))
    assert found.changed == {"code_embeddings": {"updated": 1, "deleted": 3}, "code_relationships": {"deleted": 3}}
    assert "; rows: code_embeddings 1 updated, 3 deleted; code_relationships 3 deleted" in str(found)
    assert json.loads(json.dumps(found.to_detail()))["changed"]["code_relationships"] == {"deleted": 3}


@pytest.mark.parametrize(
    ("lead", "up", "changed", "said"),
    [
        (
            "",
            "INSERT INTO code_relationships SELECT 1000, 'a', 'b', 'c'; TRUNCATE code_relationships;"
            " INSERT INTO code_relationships SELECT 1000, 'a', 'b', 'c';",
            {"code_relationships": {"inserted": 1, "removed": 7}},
            "; rows: code_relationships 1 inserted, 7 removed;",
        ),
        ("", "DROP TABLE code_relationships;", {"code_relationships": {"dropped": 7}}, "code_relationships 7 dropped"),
        (
            "-- migrate: no-transaction\n",
            "DELETE FROM code_relationships WHERE id <= 2; UPDATE code_relationships SET strength = 2;",
            {"code_relationships": {"removed": 2}},
            "; rows: code_relationships 2 removed (by their number: updates are not counted outside a transaction)",
        ),
        ("-- migrate: no-transaction\n", "VACUUM code_patterns;", {}, "; rows: none more or fewer (by their number: "),
        (
            "-- migrate: no-transaction\n",
            "CREATE INDEX CONCURRENTLY new_idx ON code_patterns (language);",
            {},
            "; with",
        ),
    ],
    ids=["truncated", "dropped", "by itself", "by itself, none", "an index"],
)
def test_rows_that_no_counter_has_are_told_by_their_number(
    settings: Settings, conn: Connection, tmp_path: Path, lead: str, up: str, changed: object, said: str
) -> None:
    deploy_graph(conn, settings)
    ahead = ahead_of(settings, tmp_path, f"{lead}-- migrate: irreversible\n{up}", None)
    [found] = rehearse(conn, ahead, pending(ahead), {}, Stand("me"))
    assert (found.changed, said in str(found)) == (changed, True), str(found)


def test_a_migration_that_fails_up(settings: Settings, conn: Connection, tmp_path: Path) -> None:
    deploy_graph(conn, settings)
    failing = ahead_of(settings, tmp_path, "ALTER TABLE code_embeddings ADD CHECK (tokens_count > 0);", "SELECT 1;")
    conn.execute("UPDATE code_embeddings SET tokens_count = 0")  # real data are what a scratch schema has not
    with pytest.raises(RehearsalFailed, match=r"002_change_something\.up\.sql:1:1: .*violated by some row") as failed:
        on_copy(conn, failing)
    assert "the database was not touched" in str(failed.value.hint)


@pytest.mark.parametrize(
    ("down", "said"),
    [
        ("SELECT 1;", "does not lead back"),
        ("ALTER TABLE code_embeddings DROP COLUMN revieved;", r"cannot be reverted .*down\.sql:1:1"),
    ],
)
def test_a_way_down_that_is_none(settings: Settings, conn: Connection, tmp_path: Path, down: str, said: str) -> None:
    deploy_graph(conn, settings)
    with pytest.raises(RehearsalFailed, match=said):
        on_copy(conn, ahead_of(settings, tmp_path, UP, down))


@pytest.mark.parametrize(
    ("up", "down", "said"),
    [
        ("DELETE FROM code_embeddings WHERE id = 1;", "SELECT 1;",
         f"code_embeddings had {ROWS} rows, and has {ROWS - 1}"),
        ("ALTER TABLE code_embeddings DROP COLUMN language;", "ALTER TABLE code_embeddings ADD COLUMN language text;",
         r"code_embeddings\.language had \d+ values, and has 0"),
    ],
)  # fmt: skip
def test_a_way_down_to_other_data_is_none(
    settings: Settings, conn: Connection, tmp_path: Path, up: str, down: str, said: str
) -> None:
    deploy_graph(conn, settings)
    conn.execute("UPDATE code_embeddings SET language = 'python'")
    with pytest.raises(RehearsalFailed, match=said) as failed:
        on_copy(conn, ahead_of(settings, tmp_path, up, down))
    assert "irreversible" in str(failed.value.hint)
    openly = ahead_of(settings, tmp_path, f"-- migrate: irreversible\n{up}", None)
    (tmp_path / "migrations" / "002_change_something.down.sql").unlink()
    [found] = on_copy(conn, openly)
    assert found.down_seconds is None


def test_an_irreversible_one_has_no_way_down(settings: Settings, conn: Connection, tmp_path: Path) -> None:
    deploy_graph(conn, settings)
    [found] = on_copy(conn, ahead_of(settings, tmp_path, f"-- migrate: irreversible\n{UP}", None))
    assert found.down_seconds is None
    assert "no way down" in str(found)


def test_what_differs_from_the_expected_form(settings: Settings, conn: Connection, tmp_path: Path) -> None:
    deploy_graph(conn, settings)
    differs = (
        f"{UP} DO $$ BEGIN IF current_schema() = 'public' THEN DROP INDEX code_patterns_language_idx; END IF; END $$"
    )
    with pytest.raises(RehearsalFailed, match="code_patterns_language_idx on code_patterns: missing"):
        on_copy(conn, ahead_of(settings, tmp_path, differs))


def test_what_was_otherwise_before_is_not_its_fault(settings: Settings, conn: Connection, tmp_path: Path) -> None:
    conn.execute(HAND_RUN.read_bytes())
    conn.execute("DROP INDEX IF EXISTS idx_code_patterns_language")
    conn.execute("ALTER TABLE code_patterns ADD COLUMN by_hand int")
    [found] = on_copy(conn, ahead_of(settings, tmp_path, UP))
    assert found.down_seconds is not None


def test_in_a_drill_the_target_is_not_touched_and_the_proof_stands(
    settings: Settings, conn: Connection, tmp_path: Path
) -> None:
    deploy_graph(conn, settings)
    before, rehearsed = state(conn), []
    ahead = ahead_of(settings, tmp_path, UP)
    backup = back_up(settings)
    drill(settings, backup, lambda scratch, proof: rehearsed.extend(
        rehearse_on(scratch, ahead, pending(ahead), proof.tables)))  # fmt: skip
    assert rehearsed[0].rows == {"code_embeddings": ROWS}
    failing = ahead_of(settings, tmp_path, "SELECT 1/0;", "SELECT 1;")
    with pytest.raises(OpsError, match="division by zero"):
        drill(settings, backup, lambda scratch, proof: [
            *rehearse_on(scratch, failing, pending(failing), proof.tables)] and None)  # fmt: skip
    assert find(open_store(settings), "dev").id == backup.id
    assert state(conn) == before


def test_what_the_whole_server_would_feel_is_not_rehearsed_on_a_server_that_others_use(
    settings: Settings, conn: Connection, tmp_path: Path
) -> None:
    deploy_graph(conn, settings)
    assert settings.address
    ahead = ahead_of(settings, tmp_path, "CREATE ROLE kg_rehearsed_role;", "DROP ROLE kg_rehearsed_role;")
    shared = ahead.model_copy(update={"scratch": settings.address.database("postgres")})
    assert "CREATE ROLE (002_change_something.up.sql:1) would change" in outlook(shared).measured.where
    backup = back_up(shared)
    with pytest.raises(RehearsalFailed, match="not rehearsed: CREATE ROLE") as refused:
        drill(shared, backup, lambda scratch, proof: [
            *rehearse_on(scratch, shared, pending(shared), proof.tables)] and None)  # fmt: skip
    assert "the database was not touched; do that by hand" in (refused.value.hint or "")
    assert [each.rule for each in outlook(ahead).linted.hazards["002"]] == ["cluster-wide"]
    rehearsed: list[Rehearsed] = []
    drill(ahead, backup, lambda scratch, proof: rehearsed.extend(
        rehearse_on(scratch, ahead, pending(ahead), proof.tables)))  # fmt: skip
    assert len(rehearsed) == 1, "in a cluster of our own it harms nobody"
    assert conn.execute("SELECT FROM pg_roles WHERE rolname = 'kg_rehearsed_role'").fetchall() == []
