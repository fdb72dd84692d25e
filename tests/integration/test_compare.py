"""What a verification says, a line each, when something of ours is not as its revision should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection
from tasks.core.schema.compare import failures
from tasks.core.schema.expected import Expected
from tests.integration.schemas import (
    MIGRATIONS,
    differences,
    expectation,
    migrate,
    migrations_of,
    run,
    shared_session,
)

FAILED = [
    (
        "ALTER TABLE code_embeddings ALTER language TYPE varchar(20)",
        "column code_embeddings.language: type expected text, found character varying(20)",
    ),
    ("ALTER TABLE code_embeddings DROP COLUMN tokens_count", "column code_embeddings.tokens_count: missing"),
    ("ALTER TABLE code_embeddings ADD COLUMN note text", "column code_embeddings.note: extra (text)"),
    (
        "ALTER TABLE code_embeddings ALTER file_path DROP NOT NULL",
        "column code_embeddings.file_path: expected not null, found nullable",
    ),
    (
        "ALTER TABLE code_embeddings ALTER language SET NOT NULL",
        "column code_embeddings.language: expected nullable, found not null",
    ),
    (
        "ALTER TABLE code_patterns ALTER frequency SET DEFAULT 2",
        "column code_patterns.frequency: default expected 1, found 2",
    ),
    (
        "ALTER TABLE code_patterns ALTER frequency DROP DEFAULT",
        "column code_patterns.frequency: default expected 1, found none",
    ),
    ("DROP TABLE code_patterns", "table code_patterns: missing"),
    ("ALTER TABLE code_patterns RENAME TO patterns", "table code_patterns: missing"),
    ("DROP INDEX code_embeddings_language_idx", "index code_embeddings_language_idx on code_embeddings: missing"),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'code_embeddings_embedding_idx'::regclass",
        "index code_embeddings_embedding_idx: not valid",
    ),
    (
        "UPDATE pg_index SET indisready = false WHERE indexrelid = 'code_embeddings_embedding_idx'::regclass",
        "index code_embeddings_embedding_idx: not ready",
    ),
    (
        "ALTER INDEX code_embeddings_embedding_idx SET (m = 32)",
        "index code_embeddings_embedding_idx: options expected ef_construction=64, m=16, "
        "found ef_construction=64, m=32",
    ),
    (
        "DROP INDEX code_embeddings_embedding_idx; CREATE INDEX code_embeddings_embedding_idx ON code_embeddings"
        " USING hnsw (embedding vector_l2_ops)",
        "index code_embeddings_embedding_idx: keys expected embedding vector_cosine_ops, found embedding vector_l2_ops",
    ),
    (
        "DROP INDEX code_embeddings_created_at_idx; CREATE INDEX code_embeddings_created_at_idx"
        " ON code_embeddings (created_at)",
        "index code_embeddings_created_at_idx: keys expected created_at timestamptz_ops DESC, "
        "found created_at timestamptz_ops",
    ),
    (
        "ALTER INDEX code_embeddings_language_idx RENAME TO mine",
        "index code_embeddings_language_idx: found under the name mine",
    ),
    (
        "CREATE UNIQUE INDEX one ON code_embeddings (file_path)",
        "index one on code_embeddings: extra (unique btree (file_path text_ops))",
    ),
    (
        "ALTER TABLE code_patterns ADD CONSTRAINT counted CHECK (frequency >= 0)",
        "constraint code_patterns.counted: extra (CHECK ((frequency >= 0)))",
    ),
    (
        "ALTER TABLE code_embeddings DROP CONSTRAINT code_embeddings_file_path_file_hash_key",
        "constraint code_embeddings.code_embeddings_file_path_file_hash_key: missing",
    ),
    (
        "ALTER TABLE code_patterns RENAME CONSTRAINT code_patterns_pattern_name_language_key TO pair",
        "constraint code_patterns.code_patterns_pattern_name_language_key: found under the name pair",
    ),
    (
        "ALTER TABLE code_patterns DISABLE TRIGGER code_patterns_set_updated_at",
        "trigger code_patterns.code_patterns_set_updated_at: disabled",
    ),
    (
        "DROP TRIGGER code_patterns_set_updated_at ON code_patterns",
        "trigger code_patterns.code_patterns_set_updated_at: missing",
    ),
    (
        "ALTER TRIGGER code_patterns_set_updated_at ON code_patterns RENAME TO touch",
        "trigger code_patterns.code_patterns_set_updated_at: found under the name touch",
    ),
    (
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = now(); RETURN NEW; END';"
        "DROP TRIGGER code_patterns_set_updated_at ON code_patterns; CREATE TRIGGER code_patterns_set_updated_at"
        " BEFORE UPDATE ON code_patterns FOR EACH ROW EXECUTE FUNCTION touch()",
        "trigger code_patterns.code_patterns_set_updated_at: calls touch(), which does the same as"
        " knowledge_graph_set_updated_at()",
    ),
    (
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "DROP TRIGGER code_patterns_set_updated_at ON code_patterns; CREATE TRIGGER code_patterns_set_updated_at"
        " BEFORE UPDATE ON code_patterns FOR EACH ROW EXECUTE FUNCTION touch()",
        "trigger code_patterns.code_patterns_set_updated_at: function expected knowledge_graph_set_updated_at(),"
        " found touch()",
    ),
    (
        "CREATE OR REPLACE FUNCTION knowledge_graph_set_updated_at() RETURNS trigger LANGUAGE plpgsql"
        " SET search_path = pg_catalog AS $$\nBEGIN\n    RETURN NEW;\nEND\n$$",
        "function knowledge_graph_set_updated_at(): body line 3 expected 'NEW.updated_at := now();', "
        "found 'RETURN NEW;' (found body's sha256 8aed189ecdb8)",
    ),
    (
        "ALTER FUNCTION knowledge_graph_set_updated_at() RENAME TO touch",
        "function knowledge_graph_set_updated_at(): found under the name touch",
    ),
    (
        "ALTER FUNCTION knowledge_graph_set_updated_at() SET search_path = public, pg_catalog",
        "function knowledge_graph_set_updated_at(): settings expected search_path=pg_catalog, "
        "found search_path=<ours>, pg_catalog",
    ),
    ("ALTER TABLE code_patterns ENABLE ROW LEVEL SECURITY", "table code_patterns: row security expected no, found yes"),
    ("CREATE POLICY p ON code_patterns TO PUBLIC USING (true)", "policy code_patterns.p: extra (all to public)"),
    ("CREATE RULE r AS ON INSERT TO code_patterns DO INSTEAD NOTHING", "rule code_patterns.r: extra"),
    (
        "ALTER SEQUENCE code_patterns_id_seq MAXVALUE 10",
        "sequence of code_patterns.id: maximum expected 2147483647, found 10",
    ),
    (
        "ALTER SEQUENCE code_patterns_id_seq RENAME TO ids",
        "sequence of code_patterns.id: found under the name ids",
    ),
    (
        "REVOKE DELETE ON code_patterns FROM CURRENT_USER",
        "privileges of table code_patterns: owner lacks DELETE",
    ),
    (
        "ALTER TABLE code_patterns DROP COLUMN metadata, ADD COLUMN metadata jsonb DEFAULT '{}'",
        "column code_patterns.metadata: expected after examples, found after updated_at",
    ),
]

REPORTED = [
    (
        "CREATE INDEX mine ON code_embeddings (language, tokens_count) WHERE tokens_count > 10",
        "index mine on code_embeddings: extra (btree (language text_ops, tokens_count int4_ops))",
    ),
    ("CREATE STATISTICS mine ON language, tokens_count FROM code_embeddings", "statistics code_embeddings.mine: extra"),
    ("COMMENT ON TABLE code_patterns IS 'patterns'", "table code_patterns: comment expected none, found patterns"),
    ("GRANT SELECT ON code_patterns TO PUBLIC", "privileges of table code_patterns: public has SELECT besides"),
    (
        "ALTER TABLE code_patterns SET (autovacuum_enabled = off)",
        "table code_patterns: options expected none, found autovacuum_enabled=off",
    ),
    (
        "ALTER TABLE code_patterns ALTER language SET STORAGE EXTERNAL",
        "column code_patterns.language: storage expected none, found external",
    ),
]


@pytest.fixture(scope="module")
def revision_1(postgres: Address) -> Iterator[tuple[Connection, Expected]]:
    with shared_session(postgres, MIGRATIONS[0].sql) as conn:
        yield conn, expectation(conn)


@pytest.fixture
def made(revision_1: tuple[Connection, Expected]) -> Iterator[tuple[Connection, Expected]]:
    """A database that has revision 1, for this test's changes, and what is expected of it."""
    with revision_1[0].transaction(force_rollback=True):
        yield revision_1


def test_revision_1_is_as_expected(made: tuple[Connection, Expected]) -> None:
    assert differences(*made) == ()


@pytest.mark.parametrize(("statement", "line"), FAILED, ids=[line for _, line in FAILED])
def test_what_fails(made: tuple[Connection, Expected], statement: str, line: str) -> None:
    conn, expected = made
    run(conn, statement)
    assert [str(difference) for difference in failures(differences(conn, expected))] == [line]


@pytest.mark.parametrize(("statement", "line"), REPORTED, ids=[line for _, line in REPORTED])
def test_what_is_reported_and_passes(made: tuple[Connection, Expected], statement: str, line: str) -> None:
    conn, expected = made
    run(conn, statement)
    found = differences(conn, expected)
    assert [str(difference) for difference in found] == [line]
    assert failures(found) == ()


def test_a_missing_table_is_said_once_and_the_rest_still_looked_at(made: tuple[Connection, Expected]) -> None:
    conn, expected = made
    run(conn, "DROP TABLE code_relationships", "DROP INDEX code_patterns_language_idx")
    assert [str(difference) for difference in differences(conn, expected)] == [
        "index code_patterns_language_idx on code_patterns: missing",
        "table code_relationships: missing",
    ]


def test_nothing_there_is_four_tables_and_a_function(conn: Connection) -> None:
    run(conn, "CREATE EXTENSION vector")
    found = [difference.object for difference in differences(conn, expectation(conn))]
    assert found == [
        "function knowledge_graph_set_updated_at()",
        "table code_embeddings",
        "table code_patterns",
        "table code_relationships",
        "table embedding_cache_stats",
    ]


def test_an_extra_index_that_is_not_valid_says_so(made: tuple[Connection, Expected]) -> None:
    conn, expected = made
    run(conn, "CREATE INDEX mine ON code_patterns (frequency, language)")
    run(conn, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mine'::regclass")
    found = [str(one) for one in differences(conn, expected)]
    assert found == ["index mine on code_patterns: extra (btree (frequency int4_ops, language text_ops), not valid)"]


def test_a_renamed_index_that_becomes_invalid_is_named(made: tuple[Connection, Expected]) -> None:
    conn, expected = made
    run(conn, "ALTER INDEX code_embeddings_embedding_idx RENAME TO mine")
    run(conn, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mine'::regclass")
    assert [str(one) for one in differences(conn, expected)] == [
        "index code_embeddings_embedding_idx: found under the name mine",
        "index code_embeddings_embedding_idx: not valid",
    ]


def test_a_policy_and_a_grant_of_a_migration_are_held_to(conn: Connection, tmp_path: Path) -> None:
    second = """
        ALTER TABLE code_patterns ENABLE ROW LEVEL SECURITY;
        CREATE POLICY readable ON code_patterns FOR SELECT TO PUBLIC USING (frequency > 1 AND language = 'python');
        GRANT SELECT, INSERT ON code_patterns TO PUBLIC;
        CREATE VIEW common AS SELECT pattern_name FROM code_patterns WHERE frequency > 9;"""
    migrations = migrations_of(tmp_path, second)
    migrate(conn, migrations=migrations)
    expected = expectation(conn, migrations)
    assert differences(conn, expected) == ()
    run(conn, "ALTER POLICY readable ON code_patterns USING (frequency > 1)")
    run(conn, "REVOKE INSERT ON code_patterns FROM PUBLIC")
    run(conn, "CREATE OR REPLACE VIEW common AS SELECT pattern_name FROM code_patterns WHERE frequency > 8")
    found = [str(difference) for difference in failures(differences(conn, expected))]
    assert found[:2] == [
        "policy code_patterns.readable: using expected ((frequency > 1) AND (language = 'python'::text)), "
        "found (frequency > 1)",
        "privileges of table code_patterns: public lacks INSERT",
    ]
    assert len(found) == 3
    assert found[2].startswith("view common: query expected ")
