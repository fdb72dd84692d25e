"""The catalog document: the same for databases made alike, and another as soon as something of ours differs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection
from tasks.core.schema.catalog import fingerprint, read_catalog
from tests.integration.schemas import MIGRATIONS, migrate, run, session_of, shared_session


@pytest.fixture(scope="module")
def revision_1(postgres: Address) -> Iterator[Connection]:
    with shared_session(postgres, MIGRATIONS[0].sql) as conn:
        yield conn


@pytest.fixture
def made(revision_1: Connection) -> Iterator[Connection]:
    """A session in a database that has revision 1, for this test's changes."""
    with revision_1.transaction(force_rollback=True):
        yield revision_1


def ours(conn: Connection, schema: str = "public") -> str:
    return fingerprint(read_catalog(conn, schema))


def test_another_schema_gives_the_same_document(made: Connection) -> None:
    expected = read_catalog(made, "public")
    for schema in ("scratch", 'We"ird, sch.ema'):
        migrate(made, schema)
        assert read_catalog(made, schema) == expected


def test_the_extension_in_a_schema_of_its_own_gives_the_same_document(made: Connection) -> None:
    before = ours(made)
    run(made, "CREATE SCHEMA extensions", "ALTER EXTENSION vector SET SCHEMA extensions")
    assert ours(made) == before


def test_names_of_a_schema_in_strings_are_left_alone(conn: Connection) -> None:
    migrate(conn)
    run(conn, "ALTER TABLE code_patterns ALTER pattern_name SET DEFAULT 'public.code_patterns'")
    column = read_catalog(conn, "public")["objects"]["column code_patterns.pattern_name"]
    assert column["default"] == "'public.code_patterns'::text"


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(
            (
                "INSERT INTO code_patterns (pattern_name, pattern_type, pattern_template, language)"
                " SELECT n::text, 'a', 'b', 'c' FROM generate_series(1, 300) n",
                "ANALYZE",
            ),
            id="rows, statistics and a sequence that has moved on",
        ),
        pytest.param(("ALTER SEQUENCE code_patterns_id_seq RESTART 77",), id="sequence set by hand"),
        pytest.param(
            ("GRANT SELECT ON code_patterns TO PUBLIC", "REVOKE SELECT ON code_patterns FROM PUBLIC"),
            id="granted and revoked: relacl is no longer NULL",
        ),
        pytest.param(
            ("ALTER TABLE code_patterns ADD COLUMN x int", "ALTER TABLE code_patterns DROP COLUMN x"),
            id="a column that came and went",
        ),
        pytest.param(
            (
                "ALTER TABLE code_patterns DROP COLUMN updated_at",
                "ALTER TABLE code_patterns ADD COLUMN updated_at timestamptz DEFAULT now()",
            ),
            id="the last column dropped and added again",
        ),
        pytest.param(("CREATE TABLE kg_ops_like (id int)", "DROP TABLE kg_ops_like"), id="a table that came and went"),
        pytest.param(("REINDEX TABLE code_embeddings", "TRUNCATE code_embeddings"), id="rewritten on disk"),
        pytest.param(
            (
                "DROP INDEX code_embeddings_embedding_idx",
                "CREATE INDEX code_embeddings_embedding_idx ON code_embeddings"
                " USING hnsw (embedding vector_cosine_ops)",
            ),
            id="defaults of HNSW not written out",
        ),
    ],
)
def test_what_is_no_difference(made: Connection, statements: tuple[str, ...]) -> None:
    before = ours(made)
    run(made, *statements)
    assert ours(made) == before


def test_owner_is_a_word_and_not_a_name(made: Connection, database: Address) -> None:
    before = ours(made)
    role = Identifier(f"{database.dbname}_owner")
    made.execute(SQL("CREATE ROLE {}").format(role))
    try:
        with made.transaction(force_rollback=True):
            for table in ("code_embeddings", "code_patterns", "code_relationships", "embedding_cache_stats"):
                made.execute(SQL("ALTER TABLE {} OWNER TO {}").format(Identifier(table), role))
            made.execute(SQL("ALTER FUNCTION knowledge_graph_set_updated_at() OWNER TO {}").format(role))
            assert ours(made) == before
            made.execute(SQL("REVOKE DELETE ON code_patterns FROM {}").format(role))
            assert ours(made) != before
    finally:
        made.execute(SQL("DROP ROLE {}").format(role))


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE code_patterns SET (fillfactor = 70)",
        "ALTER TABLE code_patterns SET UNLOGGED",
        "ALTER TABLE code_patterns FORCE ROW LEVEL SECURITY",
        "ALTER TABLE code_patterns REPLICA IDENTITY FULL",
        "ALTER TABLE code_patterns ALTER language SET STORAGE EXTERNAL",
        "ALTER TABLE code_patterns ALTER id TYPE bigint",
        "ALTER SEQUENCE code_patterns_id_seq INCREMENT 2",
        "ALTER SEQUENCE code_patterns_id_seq OWNED BY NONE",
        "COMMENT ON COLUMN code_patterns.language IS 'x'",
        "CREATE STATISTICS s ON language, pattern_type FROM code_patterns",
        "CREATE RULE r AS ON INSERT TO code_patterns DO INSTEAD NOTHING",
        "CREATE POLICY p ON code_patterns USING (true)",
        "GRANT SELECT (language) ON code_patterns TO PUBLIC",
        "GRANT USAGE ON SEQUENCE code_patterns_id_seq TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION knowledge_graph_set_updated_at() FROM PUBLIC",
        "ALTER FUNCTION knowledge_graph_set_updated_at() SECURITY DEFINER",
        "ALTER FUNCTION knowledge_graph_set_updated_at() RESET search_path",
        "ALTER TABLE code_patterns ENABLE ALWAYS TRIGGER code_patterns_set_updated_at",
        "ALTER INDEX code_patterns_language_idx SET (fillfactor = 50)",
        "ALTER TABLE code_patterns ADD CHECK (frequency > 0) NOT VALID",
        "CREATE VIEW code_view AS SELECT id FROM code_patterns",
    ],
)
def test_what_is_a_difference(made: Connection, statement: str) -> None:
    before = ours(made)
    run(made, statement)
    assert ours(made) != before


def test_what_an_extension_owns_is_not_ours(made: Connection) -> None:
    before = ours(made)
    run(made, "CREATE TABLE parts (id serial)", "CREATE FUNCTION part() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    assert ours(made) != before
    run(made, "ALTER EXTENSION vector ADD TABLE parts", "ALTER EXTENSION vector ADD FUNCTION part()")
    run(made, "ALTER EXTENSION vector ADD SEQUENCE parts_id_seq")
    assert ours(made) == before


def test_maintain_is_part_of_all(made: Connection) -> None:
    run(made, "GRANT ALL ON code_patterns TO PUBLIC")
    grants = read_catalog(made, "public")["objects"]["privileges of table code_patterns"]["grants"]
    seven = ["DELETE", "INSERT", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE"]
    assert grants == {"owner": seven, "public": seven}
    if made.info.server_version >= 170000:
        run(made, "REVOKE ALL ON code_patterns FROM PUBLIC", "GRANT MAINTAIN ON code_patterns TO PUBLIC")
        grants = read_catalog(made, "public")["objects"]["privileges of table code_patterns"]["grants"]
        assert grants["public"] == ["MAINTAIN"]


def test_only_what_is_named_is_read(made: Connection) -> None:
    run(made, "CREATE TABLE theirs (id int)", "CREATE FUNCTION theirs() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    catalog = read_catalog(made, "public", {"code_patterns"})
    assert {document["table"] for document in catalog["objects"].values()} == {"code_patterns", None}
    assert "function knowledge_graph_set_updated_at()" in catalog["objects"], "its trigger calls it"
    assert not any("theirs" in key for key in catalog["objects"])


def test_a_body_in_standard_form_is_read(made: Connection) -> None:
    if made.info.server_version < 140000:
        pytest.skip("SQL-standard bodies came with 14")
    run(made, "CREATE FUNCTION one() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END")
    first = read_catalog(made, "public")["objects"]["function one()"]["body"]
    assert "SELECT 1" in first


def test_the_document_is_plain_json_without_numbers_of_this_database(made: Connection) -> None:
    catalog = read_catalog(made, "public")
    assert json.loads(json.dumps(catalog)) == catalog
    text = json.dumps(catalog)
    oids = made.execute("SELECT oid::text FROM pg_class WHERE relnamespace = 'public'::regnamespace").fetchall()
    assert not [oid for (oid,) in oids if oid in text]
    assert "public." not in text


def test_the_session_is_left_as_it_was(conn: Connection) -> None:
    migrate(conn)
    names = ["search_path", "TimeZone", "DateStyle", "transaction_read_only", "extra_float_digits"]
    run(conn, "SET search_path = pg_catalog", "SET TimeZone = 'Asia/Tokyo'")
    before = [conn.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names]
    read_catalog(conn, "public")
    assert [conn.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names] == before
    assert conn.info.transaction_status == TransactionStatus.IDLE
    with conn.transaction():
        read_catalog(conn, "public")
        assert [conn.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names] == before
        run(conn, "CREATE TEMP TABLE still_writable ()")


def test_nothing_is_locked_or_written_and_no_right_on_the_tables_is_needed(conn: Connection, database: Address) -> None:
    migrate(conn)
    expected = ours(conn)
    with session_of("test_reader", conn, database) as reader, conn.transaction():
        run(reader, "SET default_transaction_read_only = on")
        run(conn, "LOCK TABLE code_embeddings IN SHARE UPDATE EXCLUSIVE MODE")
        assert ours(reader) == expected


def test_an_expression_that_cannot_be_explained_stays_as_stored(made: Connection) -> None:
    run(made, "ALTER TABLE code_patterns ADD CONSTRAINT odd CHECK (tableoid <> 0 AND frequency > 0)")
    found = read_catalog(made, "public")["objects"]["constraint code_patterns.odd"]["definition"]
    assert found.startswith("CHECK (((tableoid <> ")
    assert "frequency > 0" in found


def test_reading_is_quick(made: Connection) -> None:
    def once() -> float:
        began = time.perf_counter()
        read_catalog(made, "public")
        return time.perf_counter() - began

    assert min(once() for _ in range(20)) < 0.1  # the least: what other processes take of the cores is not its own
