"""Verify: whatever is broken is named, whatever is not ours to judge passes, and nothing of the probes remains."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.schema.adoption import judge
from tasks.core.schema.expected import expected_catalogs
from tasks.core.schema.migrations import apply, load_migrations
from tasks.core.schema.verify import verify
from tasks.core.settings import DatabaseSettings, Settings
from tests.integration.checking import failing, found
from tests.integration.verifying import TABLES, deploy, deployed
from tests.processes import quickest

__all__ = ["deployed"]  # fixtures


def test_what_the_migrations_made_passes_every_check(deployed: Settings) -> None:
    report = verify(deployed)
    assert [(check.name, check.status) for check in report.checks] == [
        ("revision", "ok"),
        ("pgvector", "ok"),
        ("tables", "ok"),
        ("schema", "ok"),
        ("index on code_embeddings.embedding", "ok"),
        ("sequences", "ok"),
        ("read and write", "ok"),
        ("unique constraints", "ok"),
        ("similarity search", "ok"),
        ("updated_at triggers", "ok"),
    ], report
    assert report.ok
    assert found(report, "tables") == f"ok: {TABLES}"
    uniques = found(report, "unique constraints")
    for columns in ("code_embeddings (file_path, file_hash)", "code_patterns (pattern_name, language)",
                    "embedding_cache_stats (date)"):  # fmt: skip
        assert f"{columns} refuses a duplicate" in uniques
    assert found(report, "similarity search").startswith("ok: code_embeddings.embedding finds an inserted row")


def test_it_takes_less_than_a_second(deployed: Settings) -> None:
    assert quickest(lambda: verify(deployed)) < 1


BREAKAGES = [
    ("ALTER TABLE code_patterns DROP COLUMN examples", "column code_patterns.examples: missing"),
    ("DROP INDEX code_patterns_language_idx", "index code_patterns_language_idx on code_patterns: missing"),
    ("ALTER TABLE code_patterns DISABLE TRIGGER USER", "trigger code_patterns.code_patterns_set_updated_at: disabled"),
    (
        "ALTER TABLE code_relationships ALTER strength SET DEFAULT 2.0",
        "column code_relationships.strength: default expected 1.0, found 2.0",
    ),
    ("ALTER TABLE code_patterns ADD by_hand text", "column code_patterns.by_hand: extra (text)"),
    ("ALTER TABLE code_patterns ALTER language DROP NOT NULL", "column code_patterns.language: expected not null"),
    (
        "ALTER TABLE embedding_cache_stats DROP CONSTRAINT embedding_cache_stats_date_key",
        "constraint embedding_cache_stats.embedding_cache_stats_date_key: missing",
    ),
    ("DROP TABLE code_relationships", "table code_relationships: missing"),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'code_patterns_language_idx'::regclass",
        "index code_patterns_language_idx: not valid",
    ),
]


@pytest.mark.parametrize(("breakage", "named"), BREAKAGES, ids=[breakage[:40] for breakage, _ in BREAKAGES])
def test_whatever_is_broken_is_named(conn: Connection, deployed: Settings, breakage: str, named: str) -> None:
    conn.execute(breakage)
    report = verify(deployed)
    assert not report.ok
    assert named in found(report, "schema")
    assert found(report, "schema").count(";") == 0 or breakage.startswith("DROP TABLE"), "one thing broke, one is named"


def test_a_dropped_table_is_missing_and_the_others_are_still_tried(conn: Connection, deployed: Settings) -> None:
    conn.execute("DROP TABLE code_relationships")
    report = verify(deployed)
    assert found(report, "tables") == "failed: missing: code_relationships"
    assert found(report, "read and write") == "ok: code_embeddings; code_patterns; embedding_cache_stats"


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        ("DROP INDEX code_embeddings_embedding_idx", "failed: there is no hnsw index with vector_cosine_ops"),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'code_embeddings_embedding_idx'::regclass",
            "failed: code_embeddings_embedding_idx is not valid",
        ),
        (
            "DROP INDEX code_embeddings_embedding_idx;"
            "CREATE INDEX wrong_idx ON code_embeddings USING hnsw (embedding vector_l2_ops)",
            "failed: there is no hnsw index with vector_cosine_ops, only wrong_idx (hnsw, vector_l2_ops)",
        ),
    ],
)
def test_a_vector_index_that_searches_cannot_use_fails(
    conn: Connection, deployed: Settings, breakage: str, said: str
) -> None:
    conn.execute(breakage)
    report = verify(deployed)
    assert found(report, "index on code_embeddings.embedding").startswith(said)
    assert "schema" in failing(report)
    assert "failed" not in found(report, "similarity search"), "without the index a search is slow, not wrong"


def test_an_index_that_the_planner_may_not_use_fails(conn: Connection, deployed: Settings, database: Address) -> None:
    """As after a build over rows whose older versions some transaction may still want to see."""
    with connect(database, purpose="older") as older, older.transaction():
        older.execute("SELECT txid_current()")
        conn.execute("UPDATE pg_index SET indcheckxmin = true"
                     " WHERE indexrelid = 'code_embeddings_embedding_idx'::regclass")  # fmt: skip
        assert "cannot use it" in found(verify(deployed), "index on code_embeddings.embedding")
    assert verify(deployed).ok


def test_a_column_put_back_stands_elsewhere_and_has_a_remedy(conn: Connection, deployed: Settings) -> None:
    conn.execute("ALTER TABLE code_patterns DROP COLUMN examples")
    conn.execute("ALTER TABLE code_patterns ADD COLUMN examples jsonb DEFAULT '[]'")
    [schema] = [check for check in verify(deployed).checks if check.status == "failed"]
    assert "column code_patterns.examples: expected after" in schema.detail
    assert "kg rollback ENV --strategy restore" in schema.remedy


def test_a_renamed_index_still_serves_searches(conn: Connection, deployed: Settings) -> None:
    conn.execute("ALTER INDEX code_embeddings_embedding_idx RENAME TO other_name")
    report = verify(deployed)
    assert failing(report) == {"schema"}
    assert "found under the name other_name" in found(report, "schema")


def test_an_operator_s_index_is_reported_and_passes(conn: Connection, deployed: Settings) -> None:
    conn.execute("CREATE INDEX operators_idx ON code_patterns (created_at)")
    report = verify(deployed)
    assert report.ok
    assert "index operators_idx on code_patterns: extra" in found(report, "schema")


def test_a_disabled_trigger_is_noticed_by_its_effect(conn: Connection, deployed: Settings) -> None:
    conn.execute("ALTER TABLE code_embeddings DISABLE TRIGGER USER")
    assert found(verify(deployed), "updated_at triggers") == (
        "failed: code_embeddings: an update leaves updated_at as it was"
    )


def test_a_unique_index_that_does_not_work_is_noticed_by_its_effect(conn: Connection, deployed: Settings) -> None:
    conn.execute("UPDATE pg_index SET indisready = false WHERE indexrelid = 'embedding_cache_stats_date_key'::regclass")
    assert "embedding_cache_stats (date) accepted a duplicate" in found(verify(deployed), "unique constraints")


def test_a_sequence_behind_its_column_fails_with_its_remedy(conn: Connection, deployed: Settings) -> None:
    conn.execute("INSERT INTO code_patterns (id, pattern_name, pattern_type, pattern_template, language)"
                 " VALUES (70, 'a', 'b', 'c', 'd')")  # fmt: skip
    report = verify(deployed)
    assert failing(report) == {"sequences"}
    said = found(report, "sequences")
    assert "code_patterns_id_seq is at 0, code_patterns.id goes to 70" in said
    conn.execute(said.rpartition(": ")[2])
    assert verify(deployed).ok


def test_a_database_without_a_revision_fails(settings: Settings) -> None:
    report = verify(settings)
    assert found(report, "revision") == "failed: no revision is applied (deploy it: kg deploy dev)"
    assert not report.ok


def test_an_applied_file_that_changed_fails(conn: Connection, deployed: Settings) -> None:
    conn.execute("UPDATE kg_ops.ledger SET checksum = repeat('0', 64)")
    report = verify(deployed)
    assert "001_create_knowledge_graph_tables.up.sql has changed since it was applied" in found(report, "revision")
    conn.execute("UPDATE kg_ops.ledger SET revision = '009'")
    assert "revision 009_create_knowledge_graph_tables is applied" in found(verify(deployed), "revision")


def test_a_pending_revision_is_no_failure(conn: Connection, deployed: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    for path in deployed.migrations.glob("*.sql"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "002_add_note.up.sql").write_text("ALTER TABLE code_patterns ADD note text;")
    (folder / "002_add_note.down.sql").write_text("ALTER TABLE code_patterns DROP note;")
    later = deployed.model_copy(update={"migrations": folder})
    report = verify(later)
    assert report.ok
    assert "pending: 002_add_note" in found(report, "revision")
    conn.execute("ALTER TABLE code_patterns ADD note text")
    assert "column code_patterns.note: extra" in found(verify(later), "schema")


def test_what_was_accepted_at_the_adoption_is_accepted_later_and_nothing_more(
    conn: Connection, settings: Settings
) -> None:
    migrations = load_migrations(settings.migrations)
    apply(conn, migrations[0], settings.database, lambda _: None)
    conn.execute("ALTER INDEX code_patterns_language_idx RENAME TO idx_language")
    verdict = judge(conn, expected_catalogs(conn, migrations, "public"), "public")
    assert verdict.kind == "adopt"
    ledger.ensure(conn)
    ledger.record_adopted(conn, migrations[0], tolerated=verdict.tolerated)
    report = verify(settings)
    assert report.ok, report
    assert "1 differences were accepted when it was adopted" in found(report, "schema")
    conn.execute("DROP INDEX idx_language")
    assert "index code_patterns_language_idx on code_patterns: missing" in found(verify(settings), "schema")


def test_another_schema_with_the_extension_elsewhere(conn: Connection, settings: Settings) -> None:
    conn.execute('CREATE SCHEMA "Kg ours"; CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions')
    moved = settings.model_copy(update={"database": DatabaseSettings(schema="Kg ours")})
    deploy(conn, moved)
    report = verify(moved)
    assert report.ok, report
    assert "in schema extensions" in found(report, "pgvector")
