"""What a way back must never do: each of these lost or would have lost somebody's data without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.documents import DeployDocument, attached
from tasks.core.errors import OpsError, Refused, RollbackFailed, RollbackRefused, RowsMissing
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tests.flows.runs import backup, deploy, rollback, rows

TABLES = ("code_embeddings", "code_patterns", "code_relationships", "embedding_cache_stats")


def add_summary(migrations: Path) -> None:
    """A second revision whose way back drops a column."""
    (migrations / "002_add_summary.up.sql").write_text(
        "ALTER TABLE code_patterns ADD COLUMN summary text, ADD COLUMN seen boolean DEFAULT false;\n"
    )
    (migrations / "002_add_summary.down.sql").write_text(
        "ALTER TABLE code_patterns DROP COLUMN summary, DROP COLUMN seen;\n"
    )


def test_values_of_a_column_that_would_go_are_data_too(dev: Settings, conn: Connection, migrations: Path) -> None:
    deploy()
    add_summary(migrations)
    deploy()
    conn.execute("INSERT INTO code_patterns (pattern_name, pattern_type, pattern_template, language, summary)"
                 " VALUES ('a', 'b', 'c', 'd', 'written by somebody')")  # fmt: skip
    with pytest.raises(RollbackRefused, match=r"1 values of code_patterns\.summary"):
        rollback(strategy="revert")
    with pytest.raises(RollbackFailed, match="code_patterns"):
        rollback(yes=True)  # auto: neither reverts nor restores over what was written
    assert rows(conn, "code_patterns") == 1
    conn.execute("UPDATE code_patterns SET summary = NULL")
    assert rollback(strategy="revert").reverted == ("002",)


def test_a_down_script_that_was_changed_since_is_not_run(dev: Settings, conn: Connection, migrations: Path) -> None:
    deploy()
    add_summary(migrations)
    deploy()
    conn.execute("CREATE TABLE customers AS SELECT generate_series(1, 50) AS id")
    down = migrations / "002_add_summary.down.sql"
    down.write_text(down.read_text() + "DROP TABLE customers;\n")
    with pytest.raises(RollbackRefused, match=r"002_add_summary\.down\.sql is not the down script"):
        rollback(strategy="revert", yes=True)
    assert rows(conn, "customers") == 50


def test_a_half_written_pending_file_bars_neither_verify_nor_backup_nor_the_way_back(
    dev: Settings, conn: Connection, migrations: Path
) -> None:
    before = deploy().fingerprint_before
    (migrations / "002_later.up.sql").write_text("ALTER TABL x;\n")
    (migrations / "002_later.down.sql").write_text("SELECT 1;\n")
    assert verify(dev).ok
    assert backup().proved
    assert rollback(strategy="revert").fingerprint == before


def test_somebody_elses_table_is_not_ours_for_bearing_a_pending_name(
    dev: Settings, conn: Connection, migrations: Path
) -> None:
    deploy()
    conn.execute("CREATE TABLE notes AS SELECT generate_series(1, 30) AS id")
    (migrations / "002_notes.up.sql").write_text("CREATE TABLE IF NOT EXISTS notes (id int PRIMARY KEY);\n")
    (migrations / "002_notes.down.sql").write_text("DROP TABLE notes;\n")
    with pytest.raises(Refused, match="table notes"):
        deploy()
    rollback(strategy="reset", yes=True)
    saved = backup()
    rollback(strategy="restore", backup=saved.id, yes=True)
    assert rows(conn, "notes") == 30


def test_a_role_that_policies_filter_never_takes_hidden_rows_for_none(
    dev: Settings, conn: Connection, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy()
    count = request.getfixturevalue("embeddings")
    name = conn.info.dbname
    conn.execute("DROP ROLE IF EXISTS kg_test_owner")
    conn.execute("CREATE ROLE kg_test_owner LOGIN PASSWORD 'kg-test-owner'")
    try:
        conn.execute(SQL("ALTER DATABASE {} OWNER TO kg_test_owner").format(Identifier(name)))
        conn.execute("GRANT ALL ON SCHEMA public, kg_ops TO kg_test_owner")
        conn.execute("GRANT ALL ON ALL TABLES IN SCHEMA kg_ops TO kg_test_owner")
        conn.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA kg_ops TO kg_test_owner")
        for table in map(Identifier, TABLES):
            conn.execute(SQL("ALTER TABLE {} OWNER TO kg_test_owner").format(table))
            conn.execute(SQL("ALTER TABLE {} FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY").format(table))
        conn.execute("ALTER FUNCTION knowledge_graph_set_updated_at() OWNER TO kg_test_owner")
        address = dev.address
        assert address is not None
        monkeypatch.setenv("SUPABASE_URL", f"postgresql://kg_test_owner@{address.host}:{address.port}/{address.dbname}")
        monkeypatch.setenv("SUPABASE_DB_PASSWORD", "kg-test-owner")
        with pytest.raises(OpsError, match="row-level security"):
            rollback(strategy="revert")
        assert rows(conn) == count
    finally:
        conn.execute("REASSIGN OWNED BY kg_test_owner TO CURRENT_USER")
        conn.execute("DROP OWNED BY kg_test_owner")
        conn.execute("DROP ROLE kg_test_owner")


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE FUNCTION counted() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM code_embeddings; END", "counted"),
        (
            "CREATE FUNCTION every() RETURNS SETOF code_embeddings LANGUAGE sql AS 'SELECT * FROM code_embeddings'",
            "every",
        ),
        ("CREATE TABLE other (id int DEFAULT nextval('code_embeddings_id_seq'))", "other"),
        ("CREATE TABLE child (n int REFERENCES code_embeddings)", "child"),
        ("CREATE TABLE heir () INHERITS (code_patterns)", "heir"),
    ],
)
def test_whatever_hangs_on_our_tables_bars_a_swap(dev: Settings, conn: Connection, statement: str, named: str) -> None:
    deploy()
    saved = backup()
    conn.execute(statement.encode())
    with pytest.raises(RollbackRefused, match=named):
        rollback(strategy="restore", backup=saved.id, yes=True)


def test_the_databases_isolation_default_hides_no_late_writer(dev: Settings, conn: Connection) -> None:
    conn.execute(SQL("ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'").format(
        Identifier(conn.info.dbname)))  # fmt: skip
    assert dev.address is not None
    with connect(dev.address, purpose="test") as session:
        assert session.execute("SHOW transaction_isolation").fetchone() == ("read committed",)


def test_rows_that_a_migration_deleted_are_missed_after_the_revert(
    dev: Settings, conn: Connection, migrations: Path
) -> None:
    """The form is back, the rows are not: that is no way back as if all were well."""
    first = deploy()
    conn.execute("INSERT INTO code_patterns (pattern_name, pattern_type, pattern_template, language)"
                 " SELECT 'pattern ' || n, '', '', 'python' FROM generate_series(1, 5) AS n")  # fmt: skip
    only_there = "current_schema() = 'public' AND current_database() LIKE 'test_%'"  # the rehearsal would see it
    (migrations / "002_clear.up.sql").write_text(
        f"DO $$ BEGIN IF {only_there} THEN DELETE FROM code_patterns WHERE id > 2;"
        " DROP INDEX code_patterns_language_idx; END IF; END $$;\n"  # so that verify fails
    )
    (migrations / "002_clear.down.sql").write_text(
        "CREATE INDEX IF NOT EXISTS code_patterns_language_idx ON code_patterns (language);\n"
    )
    with pytest.raises(RowsMissing, match="code_patterns has 2 rows of 5 that backup") as failed:
        deploy()
    assert "dev went back to revision 001 (reverted 002)" in failed.value.message
    document = attached(failed.value)
    assert isinstance(document, DeployDocument)
    assert (document.state, document.rolled_back, document.revision) == ("failed", True, "001")
    assert document.fingerprint_after == first.fingerprint_after
    ended = conn.execute("SELECT state FROM kg_ops.operation ORDER BY started_at DESC LIMIT 1").fetchone()
    assert ended == ("failed",)
    hint = failed.value.hint or ""
    assert f"kg rollback dev --strategy restore --backup {document.backup} --yes" in hint
    rollback(strategy="restore", backup=document.backup, yes=True)  # the one command
    assert rows(conn, "code_patterns") == 5
