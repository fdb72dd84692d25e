"""Tables that were made by hand: recognised as revision 1, or refused with what differs, and never half adopted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.addresses import Address
from tasks.core.operations.rollback import Request
from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.adoption import judge, without_tolerated
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.schema.compare import failures
from tasks.core.schema.expected import Expected
from tasks.core.settings import Settings
from tests.faults.runs import deploy, rollback
from tests.integration.schemas import HAND_RUN, differences, expectation, migrate, migrations_of, run, shared_session

BODY = "CREATE OR REPLACE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS "

# What may be otherwise, beside the hand-run script as it is, and a word of the line that says so.
TOLERATED = [
    ("CREATE INDEX mine ON code_patterns (language, pattern_type)", "index mine on code_patterns: extra"),
    ("COMMENT ON COLUMN code_patterns.language IS 'of the pattern'", "comment expected none"),
    ("ALTER TABLE code_patterns ENABLE ROW LEVEL SECURITY", "row security expected no, found yes"),
    ("CREATE POLICY p ON code_patterns USING (language = 'sql')", "policy code_patterns.p: extra"),
    ("GRANT SELECT ON code_patterns TO PUBLIC", "public has SELECT besides"),
    ("REVOKE TRUNCATE ON code_patterns FROM CURRENT_USER", "owner lacks TRUNCATE"),
    ("ALTER SEQUENCE code_patterns_id_seq RENAME TO pattern_ids", "found under the name pattern_ids"),
    ("ALTER TABLE code_patterns RENAME CONSTRAINT code_patterns_pkey TO pk", "found under the name pk"),
    ("ALTER INDEX code_patterns_language_idx RENAME TO idx_language", "found under the name idx_language"),
    (
        "ALTER TRIGGER update_code_patterns_updated_at ON code_patterns RENAME TO t",
        "code_patterns_set_updated_at: found under the name t",
    ),
    ("ALTER FUNCTION update_updated_at_column() SET search_path = ''", 'found search_path=""'),
    (BODY + "'begin new.updated_at := current_timestamp; return new; end'", "worded otherwise, to the same effect"),
    (
        "CREATE FUNCTION knowledge_graph_set_updated_at() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog"
        " AS $$\nBEGIN\n    NEW.updated_at := now();\n    RETURN NEW;\nEND\n$$",
        "calls update_updated_at_column(), which does the same",
    ),
    (
        "ALTER TABLE code_relationships DROP COLUMN metadata, ADD COLUMN metadata jsonb DEFAULT '{}'",
        "columns of code_relationships: created_at before metadata",
    ),
]

REFUSED = [
    ("DROP TABLE code_relationships", "table code_relationships: missing"),
    (
        "ALTER TABLE code_embeddings ALTER language TYPE varchar(50)",
        "column code_embeddings.language: type expected text, found character varying(50)",
    ),
    (
        "ALTER TABLE code_embeddings ALTER embedding TYPE vector(768)",
        "column code_embeddings.embedding: type expected vector(1536), found vector(768)",
    ),
    ("ALTER TABLE code_embeddings ADD COLUMN note text", "column code_embeddings.note: extra (text)"),
    ("ALTER TABLE code_embeddings DROP COLUMN tokens_count", "column code_embeddings.tokens_count: missing"),
    (
        "ALTER TABLE code_patterns ALTER language DROP NOT NULL",
        "column code_patterns.language: expected not null, found nullable",
    ),
    (
        "ALTER TABLE code_patterns ALTER frequency SET DEFAULT 0",
        "column code_patterns.frequency: default expected 1, found 0",
    ),
    ("DROP INDEX code_patterns_type_idx", "index code_patterns_pattern_type_idx on code_patterns: missing"),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'code_embeddings_embedding_idx'::regclass",
        "index code_embeddings_embedding_idx: not valid",
    ),
    (
        "ALTER TABLE code_patterns DISABLE TRIGGER update_code_patterns_updated_at",
        "trigger code_patterns.code_patterns_set_updated_at: disabled",
    ),
    (
        "DROP TRIGGER update_code_patterns_updated_at ON code_patterns",
        "trigger code_patterns.code_patterns_set_updated_at: missing",
    ),
    (
        "ALTER TABLE code_embeddings DROP CONSTRAINT unique_file_version",
        "constraint code_embeddings.code_embeddings_file_path_file_hash_key: missing",
    ),
    (
        "ALTER TABLE code_embeddings DROP CONSTRAINT unique_file_version;"
        "CREATE UNIQUE INDEX unique_file_version ON code_embeddings (file_path, file_hash)",
        "constraint code_embeddings.code_embeddings_file_path_file_hash_key: missing",
    ),
    (
        "CREATE UNIQUE INDEX one ON code_patterns (pattern_name)",
        "index one on code_patterns: extra (unique btree (pattern_name text_ops))",
    ),
    ("ALTER TABLE code_patterns ADD CHECK (frequency > 0)", "constraint code_patterns.code_patterns_frequency_check"),
    (BODY + "'BEGIN RETURN NEW; END'", "trigger code_patterns.code_patterns_set_updated_at: missing"),
    (BODY + "'BEGIN NEW.created_at = now(); RETURN NEW; END'", "function knowledge_graph_set_updated_at(): missing"),
    (
        "ALTER FUNCTION update_updated_at_column() SECURITY DEFINER",
        "trigger code_patterns.code_patterns_set_updated_at: missing",
    ),
]


@pytest.fixture(scope="module")
def made_by_hand(postgres: Address) -> Iterator[Connection]:
    with shared_session(postgres, HAND_RUN.read_text()) as conn:
        yield conn


@pytest.fixture(scope="module")
def expected(made_by_hand: Connection) -> Expected:
    return expectation(made_by_hand)


@pytest.fixture
def hand_made(made_by_hand: Connection) -> Iterator[Connection]:
    """A session in a database whose tables the old script made, for this test's changes."""
    with made_by_hand.transaction(force_rollback=True):
        yield made_by_hand


def test_an_empty_database_is_to_be_migrated(conn: Connection) -> None:
    run(conn, "CREATE EXTENSION vector", "CREATE TABLE theirs (id int)")
    assert judge(conn, expectation(conn), "public").kind == "apply"


def test_without_migrations_there_is_nothing_to_adopt(hand_made: Connection) -> None:
    assert judge(hand_made, expectation(hand_made, ()), "public").kind == "apply"


def test_what_the_migration_made_is_adopted_without_a_word(conn: Connection) -> None:
    migrate(conn)
    verdict = judge(conn, expectation(conn), "public")
    assert (verdict.kind, verdict.tolerated) == ("adopt", ())


def test_what_the_old_script_made_is_adopted_and_each_tolerated_difference_named(
    hand_made: Connection, expected: Expected
) -> None:
    verdict = judge(hand_made, expected, "public")
    assert verdict.kind == "adopt"
    assert verdict.differences == ()
    assert len(set(verdict.tolerated)) == len(verdict.tolerated)
    assert sorted(verdict.tolerated) == sorted(
        [
            "columns of code_embeddings: metadata before created_at",
            "columns of code_embeddings: metadata before updated_at",
            "constraint code_embeddings.code_embeddings_file_path_file_hash_key: found under the name"
            " unique_file_version",
            "function knowledge_graph_set_updated_at(): found under the name update_updated_at_column",
            "function knowledge_graph_set_updated_at(): settings expected search_path=pg_catalog, found none",
            "function knowledge_graph_set_updated_at(): worded otherwise, to the same effect; body line 3 expected"
            " 'NEW.updated_at := now();', found 'NEW.updated_at = NOW();' (found body's sha256 e84f52883005)",
            "index code_patterns_pattern_name_idx: found under the name code_patterns_name_idx",
            "index code_patterns_pattern_type_idx: found under the name code_patterns_type_idx",
            "index code_relationships_source_file_idx: found under the name code_relationships_source_idx",
            "index code_relationships_source_target_idx: found under the name code_relationships_both_idx",
            "index code_relationships_target_file_idx: found under the name code_relationships_target_idx",
            "table code_embeddings: comment expected none, found One row for each version of a file",
            *(
                f"trigger {table}.{table}_set_updated_at: found under the name update_{table}_updated_at"
                for table in ("code_embeddings", "code_patterns", "code_relationships", "embedding_cache_stats")
            ),
        ]
    )


@pytest.mark.parametrize(("statement", "line"), TOLERATED, ids=[line for _, line in TOLERATED])
def test_what_is_tolerated(hand_made: Connection, expected: Expected, statement: str, line: str) -> None:
    run(hand_made, statement)
    verdict = judge(hand_made, expected, "public")
    assert verdict.kind == "adopt", [str(difference) for difference in verdict.differences]
    assert [one for one in verdict.tolerated if line in one]
    assert without_tolerated(differences(hand_made, expected), verdict.tolerated) == ()


@pytest.mark.parametrize(("statement", "line"), REFUSED, ids=[statement for statement, _ in REFUSED])
def test_what_is_refused_and_nothing_executed(
    hand_made: Connection, expected: Expected, statement: str, line: str
) -> None:
    run(hand_made, statement)
    before = fingerprint(read_catalog(hand_made, "public"))
    verdict = judge(hand_made, expected, "public")
    assert verdict.kind == "refuse"
    assert verdict.tolerated == ()
    assert [difference for difference in verdict.differences if str(difference).startswith(line)]
    assert fingerprint(read_catalog(hand_made, "public")) == before


def test_one_difference_is_refused_with_one_line(hand_made: Connection, expected: Expected) -> None:
    run(hand_made, "ALTER TABLE code_embeddings ALTER tokens_count TYPE bigint")
    verdict = judge(hand_made, expected, "public")
    assert [str(one) for one in verdict.differences] == [
        "column code_embeddings.tokens_count: type expected integer, found bigint"
    ]


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("CREATE VIEW code_patterns AS SELECT 1 AS id", "view code_patterns"),
        (
            "CREATE TABLE theirs (id int); CREATE INDEX code_patterns_language_idx ON theirs (id)",
            "index code_patterns_language_idx: already there, on theirs, without the tables that it belongs to",
        ),
        (
            "CREATE FUNCTION knowledge_graph_set_updated_at() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "function knowledge_graph_set_updated_at: already there, without the tables that it belongs to",
        ),
        ("CREATE SEQUENCE code_patterns_id_seq", "sequence code_patterns_id_seq: already there"),
        ("CREATE TYPE code_patterns AS (id int)", "type code_patterns: already there"),
    ],
)
def test_a_name_that_is_taken_is_refused(conn: Connection, statement: str, line: str) -> None:
    run(conn, "CREATE EXTENSION vector", *statement.split("; "))
    verdict = judge(conn, expectation(conn), "public")
    assert verdict.kind == "refuse"
    assert [one for one in map(str, verdict.differences) if one.startswith(line)]


NEW_DIFFERENCES = [
    "DROP INDEX code_patterns_type_idx",
    "ALTER INDEX code_patterns_type_idx RENAME TO yet_another",
    "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'code_patterns_type_idx'::regclass",
    "ALTER INDEX code_embeddings_embedding_idx SET (m = 32)",
    "ALTER TABLE code_patterns DISABLE TRIGGER update_code_patterns_updated_at",
    "DROP TRIGGER update_code_patterns_updated_at ON code_patterns",
    "ALTER TABLE code_embeddings DROP CONSTRAINT unique_file_version",
    BODY + "'BEGIN RETURN NEW; END'",
    BODY + "'BEGIN NEW.updated_at = now(); RETURN NEW; END'",
    "ALTER FUNCTION update_updated_at_column() SET search_path = public",
    "ALTER TABLE code_embeddings DROP COLUMN metadata",
    "ALTER TABLE code_embeddings ALTER metadata SET NOT NULL",
    "ALTER TABLE code_patterns ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY p ON code_patterns USING (true)",
]


@pytest.mark.parametrize("statement", NEW_DIFFERENCES)
def test_after_the_adoption_a_new_difference_still_fails(
    hand_made: Connection, expected: Expected, statement: str
) -> None:
    tolerated = judge(hand_made, expected, "public").tolerated
    assert without_tolerated(differences(hand_made, expected), tolerated) == ()
    run(hand_made, statement)
    assert failures(without_tolerated(differences(hand_made, expected), tolerated))


def test_what_was_tolerated_stays_so_after_the_next_migration(
    hand_made: Connection, expected: Expected, tmp_path: Path
) -> None:
    tolerated = judge(hand_made, expected, "public").tolerated
    migrations = migrations_of(
        tmp_path,
        "ALTER TABLE code_embeddings ADD COLUMN one text, ADD COLUMN two text;"
        "ALTER TABLE code_embeddings DROP COLUMN updated_at; CREATE INDEX two_idx ON code_embeddings (two);",
    )
    run(hand_made, migrations[1].sql)
    assert without_tolerated(differences(hand_made, expectation(hand_made, migrations)), tolerated) == ()


def test_an_adopted_revision_is_never_reverted(settings: Settings, conn: Connection) -> None:
    """Its tables and rows were there before: no way back drops them, whatever is confirmed."""
    conn.execute(HAND_RUN.read_bytes())
    conn.execute("INSERT INTO code_embeddings (file_path, file_hash) VALUES ('a', '1')")
    deploy(settings, drilled=False)
    assert [(entry.kind, entry.state) for entry in ledger.entries(conn)] == [("adopted", "applied")]
    for asked in (Request("revert", yes=True), Request("auto", yes=True)):
        done = rollback(settings, asked)
        assert (done.nothing, done.detail) == (True, "no revision to undo")
    assert conn.execute("SELECT count(*) FROM code_embeddings").fetchone() == (1,)
    assert [(entry.kind, entry.state) for entry in ledger.entries(conn)] == [("adopted", "applied")]
