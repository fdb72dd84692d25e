"""The ways back, each proved by fingerprint and rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.errors import RollbackFailed, UsageError, VerificationFailed
from tasks.core.postgres.connections import Connection, connect
from tasks.core.settings import Settings
from tests.flows.runs import backup, deploy, rollback, rows


def content(conn: Connection) -> object:
    return conn.execute("SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM code_embeddings AS t").fetchone()


def schemas(conn: Connection) -> list[str]:
    found = conn.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'kg\\_%' ORDER BY 1").fetchall()
    return [row[0] for row in found]


def test_nothing_to_undo_is_said_and_changes_nothing(dev: Settings, conn: Connection) -> None:
    done = rollback()
    assert done.state == "nothing-to-undo"
    deploy()
    assert rollback(strategy="revert").state == "rolled-back"
    again = rollback(strategy="revert")
    assert again.state == "nothing-to-undo"


def test_revert_takes_back_the_newest_deploy(dev: Settings, conn: Connection) -> None:
    before = deploy().fingerprint_before
    done = rollback(reason="search\0 answers with errors")
    assert (done.state, done.strategy, done.reverted, done.revision) == ("rolled-back", "revert", ("001",), None)
    assert done.fingerprint == before
    said = conn.execute("SELECT detail -> 'rollback' ->> 'reason' FROM kg_ops.operation WHERE kind = 'rollback'")
    assert said.fetchone() == ("search answers with errors",), "without what PostgreSQL keeps in no text"
    assert conn.execute("SELECT to_regclass('code_embeddings')").fetchone() == (None,)
    assert conn.execute("SELECT count(*) FROM pg_extension WHERE extname = 'vector'").fetchone() == (1,)
    assert deploy().state == "deployed"


def test_a_revert_to_what_somebody_has_damaged_says_which_way_leads_out(
    dev: Settings, migrations: Path, conn: Connection
) -> None:
    deploy()
    (migrations / "002_add.up.sql").write_text("ALTER TABLE code_patterns ADD COLUMN added int;")
    (migrations / "002_add.down.sql").write_text("ALTER TABLE code_patterns DROP COLUMN added;")
    deploy()
    conn.execute("DROP TABLE code_relationships")
    with pytest.raises(VerificationFailed, match="table code_relationships: missing") as failed:
        rollback()
    assert "it went back by revert, and what is there differs: kg rollback dev --strategy r" in (
        failed.value.hint or ""
    )
    assert rollback(strategy="restore", yes=True).revision == "001"
    assert conn.execute("SELECT count(*) FROM code_relationships").fetchone() == (0,)


def test_revert_never_drops_rows_unasked(dev: Settings, conn: Connection, request: pytest.FixtureRequest) -> None:
    deploy()
    count = request.getfixturevalue("embeddings")
    with pytest.raises(RollbackFailed, match=f"code_embeddings with {count} rows") as refused:
        rollback(strategy="revert")
    assert "--yes" in (refused.value.hint or "")
    assert rows(conn) == count
    assert rollback(strategy="revert", yes=True).state == "rolled-back"


def test_auto_names_the_loss_and_the_command_that_decides(
    dev: Settings, conn: Connection, request: pytest.FixtureRequest
) -> None:
    deploy()
    count = request.getfixturevalue("embeddings")
    # --yes answers the confirmation of a script; it never makes auto discard rows.
    with pytest.raises(RollbackFailed, match=f"code_embeddings: {count} inserted") as refused:
        rollback(yes=True)
    assert "kg rollback dev --strategy restore --backup" in (refused.value.hint or "")
    assert rows(conn) == count
    assert schemas(conn) == ["kg_ops"]


def test_restore_brings_every_row_back_and_keeps_the_replaced_tables(
    dev: Settings, conn: Connection, request: pytest.FixtureRequest
) -> None:
    deploy()
    count = request.getfixturevalue("embeddings")
    saved, before = backup(), content(conn)
    conn.execute("DELETE FROM code_embeddings WHERE id % 2 = 0")
    conn.execute("UPDATE code_embeddings SET language = 'changed' WHERE id = 1")
    conn.execute("INSERT INTO code_embeddings (file_path, file_hash) VALUES ('new', 'new')")
    with pytest.raises(RollbackFailed, match="code_embeddings: 1 inserted, 25 deleted, 1 updated"):
        rollback(strategy="restore", backup=saved.id)
    assert rows(conn) == 26
    done = rollback(strategy="restore", backup=saved.id, yes=True)
    assert (done.state, done.strategy, done.backup) == ("rolled-back", "restore", saved.id)
    assert (rows(conn), content(conn)) == (count, before)
    assert done.fingerprint == saved.fingerprint
    assert schemas(conn) == ["kg_ops", done.replaced]
    assert rows(conn, done.replaced or "", "code_embeddings") == 26
    # The sequence goes on behind the restored rows, and the trigger still fires.
    conn.execute("INSERT INTO code_embeddings (file_path, file_hash) VALUES ('after', 'after')")
    conn.execute("UPDATE code_embeddings SET updated_at = '2000-01-01' WHERE file_path = 'after'")
    assert conn.execute("SELECT count(*) FROM code_embeddings WHERE updated_at < '2001-01-01'").fetchone() == (0,)


def test_restore_of_the_backup_from_before_the_first_deploy(dev: Settings, conn: Connection) -> None:
    first = deploy()
    done = rollback(strategy="restore", backup=first.backup, yes=True)
    assert done.fingerprint == first.fingerprint_before
    assert done.revision is None
    assert conn.execute("SELECT to_regclass('public.code_embeddings')").fetchone() == (None,)
    assert conn.execute("SELECT state FROM kg_ops.ledger").fetchall() == [("superseded",)]
    again = deploy()
    assert (again.state, again.fingerprint_after) == ("deployed", first.fingerprint_after)


def test_the_whole_database_goes_back_and_the_run_goes_on_in_it(dev: Settings, database: Address) -> None:
    first = deploy()
    with connect(database, purpose="test") as before:
        before.execute("INSERT INTO code_embeddings (file_path, file_hash) VALUES ('new', 'new')")
    with pytest.raises(UsageError, match="--strategy restore"):
        rollback(whole_database=True)
    done = rollback(strategy="restore", backup=backup().id, whole_database=True)
    assert (done.state, done.fingerprint, done.revision) == ("rolled-back", first.fingerprint_after, "001")
    assert (done.replaced or "").startswith("database kg_replaced_")
    with connect(database, purpose="test") as after:
        assert rows(after) == 1
    with connect(database.database("postgres"), purpose="test") as keeper:
        keeper.execute(SQL("DROP DATABASE {}").format(Identifier((done.replaced or "").removeprefix("database "))))


def test_others_objects_on_our_tables_bar_a_restore(dev: Settings, conn: Connection) -> None:
    deploy()
    saved = backup()
    conn.execute("CREATE VIEW recent AS SELECT file_path FROM code_embeddings")
    with pytest.raises(RollbackFailed, match="view recent"):
        rollback(strategy="restore", backup=saved.id, yes=True)
    assert schemas(conn) == ["kg_ops"]


def test_reset_empties_the_tables_and_keeps_the_schema(
    dev: Settings, conn: Connection, request: pytest.FixtureRequest
) -> None:
    before = deploy().fingerprint_after
    count = request.getfixturevalue("embeddings")
    with pytest.raises(RollbackFailed, match=f"code_embeddings with {count} rows"):
        rollback(strategy="reset")
    done = rollback(strategy="reset", yes=True)
    assert (done.state, done.strategy, done.fingerprint) == ("rolled-back", "reset", before)
    assert rows(conn) == 0


@pytest.mark.parametrize("wrong", ["../../etc/passwd", "20260101T020000Z-0123abcd/../x", "nonsense"])
def test_path_tricks_in_a_backup_id_are_refused(dev: Settings, wrong: str) -> None:
    with pytest.raises(UsageError):
        rollback(strategy="restore", backup=wrong)
