"""The expected catalog: made on the server itself, leaving nothing behind, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.errors import DatabaseError, MigrationFailed, PrivilegeMissing
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.schema.expected import Expected, expected_catalogs
from tasks.core.schema.migrations import Migration
from tests.integration.schemas import MIGRATIONS, differences, migrate, migrations_of, run, session_of


@pytest.fixture
def unchanged(conn: Connection) -> Iterator[None]:
    """The database holds afterwards what it held before."""
    before = contents(conn)
    yield
    assert conn.info.transaction_status == TransactionStatus.IDLE
    assert contents(conn) == before


def contents(conn: Connection) -> list[object]:
    return [
        conn.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)' ORDER BY 1").fetchall(),
        conn.execute("SELECT extname FROM pg_extension ORDER BY 1").fetchall(),
        conn.execute("SELECT oid, relname FROM pg_class WHERE oid > 16383 ORDER BY 1").fetchall(),
        conn.execute("SELECT defaclacl::text FROM pg_default_acl").fetchall(),
    ]


def make(conn: Connection, *migrations: Migration, cache: Path | None = None) -> Expected:
    return expected_catalogs(conn, migrations, "public", cache)


@pytest.mark.usefixtures("unchanged")
def test_it_is_found_out_in_an_empty_database_that_stays_empty(conn: Connection) -> None:
    expected = make(conn, *MIGRATIONS)
    assert list(expected.catalogs) == ["", *(migration.revision for migration in MIGRATIONS)]
    assert expected.catalogs[""]["objects"] == {}
    first = expected.catalogs["001"]["objects"]
    assert [key for key in first if key.startswith("table ")] == [
        "table code_embeddings",
        "table code_patterns",
        "table code_relationships",
        "table embedding_cache_stats",
    ]
    assert {"code_embeddings", "knowledge_graph_set_updated_at"} <= expected.scope


def test_it_is_what_the_migrations_make(conn: Connection) -> None:
    before = make(conn, *MIGRATIONS)
    migrate(conn, migrations=MIGRATIONS)
    found = read_catalog(conn, "public", before.scope)
    newest = before.catalogs[MIGRATIONS[-1].revision]
    assert fingerprint(found) == fingerprint(newest)
    assert make(conn, *MIGRATIONS) == before, "tables that are there already change nothing"


def test_live_tables_of_the_same_name_are_not_touched_nor_locked(conn: Connection, database: Address) -> None:
    migrate(conn)
    with connect(database, purpose="test reader", autocommit=False) as reader:
        reader.execute("SELECT count(*) FROM code_embeddings")  # and its transaction stays open
        assert "table code_embeddings" in make(conn, *MIGRATIONS).catalogs["001"]["objects"]


def test_the_extension_elsewhere_is_found(conn: Connection) -> None:
    run(conn, "CREATE SCHEMA extensions", "CREATE EXTENSION vector SCHEMA extensions")
    expected = make(conn, *MIGRATIONS)
    assert expected.catalogs["001"]["objects"]["column code_embeddings.embedding"]["type"] == "vector(1536)"


def test_concurrently_is_left_out(conn: Connection, tmp_path: Path) -> None:
    second = """-- migrate: no-transaction
        CREATE INDEX CONCURRENTLY IF NOT EXISTS two_idx ON code_patterns (language, frequency);
        DROP INDEX CONCURRENTLY IF EXISTS code_patterns_language_idx;
        COMMENT ON INDEX two_idx IS 'made CONCURRENTLY'; VACUUM code_patterns;"""
    objects = make(conn, *migrations_of(tmp_path, second)).catalogs["002"]["objects"]
    assert objects["index two_idx"]["comment"] == "made CONCURRENTLY"
    assert "index code_patterns_language_idx" not in objects


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("word", ["COMMIT", "ROLLBACK", "END", "BEGIN", "PREPARE TRANSACTION 'x'", "/* - */ Commit"])
def test_transaction_control_is_refused(conn: Connection, tmp_path: Path, word: str) -> None:
    script = f"-- migrate: no-transaction\nCREATE TABLE escaped (id int);\n{word};\n"
    with pytest.raises(MigrationFailed, match=r"002_change_something\.up\.sql:3:\d+: \w+ in a migration"):
        make(conn, *migrations_of(tmp_path, script))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "script",
    [
        "DO $$ BEGIN COMMIT; END $$;",
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'; CALL p();",
        "CREATE TABLE half (id int);\nCREATE TABLE half (id int);",
        "SELECT 1/0;",
    ],
)
def test_a_failing_migration_leaves_nothing_behind(conn: Connection, tmp_path: Path, script: str) -> None:
    with pytest.raises(MigrationFailed, match=r"002_change_something\.up\.sql:\d+:\d+: .* in a scratch schema"):
        make(conn, *migrations_of(tmp_path, script))


def test_a_table_that_no_migration_made_is_not_changed(conn: Connection, tmp_path: Path) -> None:
    run(conn, "CREATE EXTENSION vector", "CREATE TABLE theirs (id int)")
    with pytest.raises(
        MigrationFailed, match=r"002_change_something.up.sql:1:1: changes (public\.)?theirs, which no migr"
    ):
        make(conn, *migrations_of(tmp_path, "ALTER TABLE theirs ADD COLUMN ours text;"))
    assert conn.execute("SELECT count(*) FROM pg_attribute WHERE attrelid = 'theirs'::regclass AND attnum > 0")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT setval('theirs_seq', 1000);",
        "SELECT nextval('theirs_seq');",
        "SELECT setval('public.code_embeddings_id_seq', 1000);",
        "SELECT setval(pg_get_serial_sequence('public.code_embeddings', 'id'), 1000, false);",
        "DO $$ BEGIN PERFORM setval('theirs_seq', 1000); END $$;",
        "CREATE FUNCTION jump() RETURNS bigint LANGUAGE sql AS $$ SELECT setval('theirs_seq', 1000) $$; SELECT jump();",
    ],
)
def test_a_live_sequence_does_not_move(conn: Connection, tmp_path: Path, statement: str) -> None:
    """No rollback takes a sequence back: what would move one has to be refused before it does."""
    migrate(conn)
    run(conn, "CREATE SEQUENCE theirs_seq")
    before = positions(conn)
    with pytest.raises(MigrationFailed, match=r"002_change_something\.up\.sql:1:\d+: the sequence \S+_seq is not made"):
        make(conn, *migrations_of(tmp_path, statement))
    assert positions(conn) == before


INDIRECT = {
    "qualified": "SELECT pg_catalog.setval('public.theirs_seq', 1000);",
    "a function with a search_path of its own": "SELECT public.jump();",
    "a function of the migration's": "CREATE FUNCTION hop() RETURNS bigint LANGUAGE sql SET search_path = pg_catalog"
    " AS $$ SELECT setval('public.theirs_seq', 1000) $$; SELECT hop();",
    "a trigger": "CREATE FUNCTION hop() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS"
    " $$ BEGIN PERFORM setval('public.theirs_seq', 1000); RETURN NEW; END $$;"
    "CREATE TRIGGER hop BEFORE INSERT ON code_patterns FOR EACH ROW EXECUTE FUNCTION hop();"
    "INSERT INTO code_patterns (pattern_name, pattern_type, pattern_template, language) VALUES ('', '', '', '');",
    "a serial column": "INSERT INTO public.theirs (said) VALUES ('x');",
    "an identity column": "INSERT INTO public.identified (said) VALUES ('x');",
    "an identity column, anew": "UPDATE public.identified SET id = DEFAULT;",
    "a block with a default in it": "DO $$ BEGIN PERFORM setval('public.theirs_seq', 1000);"
    " CREATE TABLE more (id int DEFAULT 0); END $$;",
    "a table made of it": "CREATE TABLE more AS SELECT setval('public.theirs_seq', 1000) AS id;",
    "a column's default": "INSERT INTO code_patterns (pattern_name, pattern_type, pattern_template, language)"
    " VALUES ('', '', '', ''); ALTER TABLE code_patterns ADD COLUMN n bigint DEFAULT nextval('public.theirs_seq');",
    "a plan that is run": "EXPLAIN ANALYZE SELECT setval('public.theirs_seq', 1000);",
}


@pytest.mark.parametrize("way", INDIRECT)
def test_nor_does_it_move_by_a_way_round(conn: Connection, limited: Connection, tmp_path: Path, way: str) -> None:
    """The guard's functions see only what is called by its bare name; these are stopped by what the role may not do."""
    role, database = Identifier("limited Role"), Identifier(conn.info.dbname)
    conn.execute(SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, role))
    conn.execute(SQL("GRANT CREATE ON SCHEMA public TO {}").format(role))
    run(limited, "CREATE SEQUENCE public.theirs_seq", "CREATE TABLE public.theirs (id serial, said text)",
        "CREATE TABLE public.identified (id int GENERATED ALWAYS AS IDENTITY, said text)",
        "INSERT INTO public.identified (said) VALUES ('one')",
        "CREATE FUNCTION public.jump() RETURNS bigint LANGUAGE sql SET search_path = pg_catalog"
        " AS $$ SELECT setval('public.theirs_seq', 1000) $$")  # fmt: skip
    before, rights = positions(conn), acls(conn)
    with pytest.raises((MigrationFailed, PrivilegeMissing), match=r"002_change_something\.up\.sql:1:\d+: ") as caught:
        make(limited, *migrations_of(tmp_path, INDIRECT[way]))
    assert positions(conn) == before, caught.value
    assert acls(conn) == rights
    assert "migration made" in f"{caught.value} {caught.value.hint}", "no GRANT is what is missing"


def acls(conn: Connection) -> list[object]:
    return conn.execute("SELECT relname, relacl::text FROM pg_class WHERE oid > 16383 ORDER BY 1").fetchall()


def test_what_a_superuser_moves_all_the_same_is_said_with_the_way_back(conn: Connection, tmp_path: Path) -> None:
    """Nothing keeps a superuser from it but the guard; what got past it must not go unnoticed."""
    run(conn, "CREATE EXTENSION vector", "CREATE SEQUENCE theirs_seq", "SELECT setval('theirs_seq', 41)")
    with pytest.raises(MigrationFailed, match=r"002_\S+:1:1: the sequence public.theirs_seq .* was moved") as caught:
        make(conn, *migrations_of(tmp_path, "SELECT pg_catalog.setval('public.theirs_seq', 1000);"))
    assert "SELECT setval('public.theirs_seq', 41, t)" in (caught.value.hint or "")


def test_a_sequence_of_the_migrations_own_moves_in_the_scratch_schema(conn: Connection, tmp_path: Path) -> None:
    migrate(conn)
    before = positions(conn)
    script = """SELECT setval('code_embeddings_id_seq', 1000), nextval('code_patterns_id_seq');
        SELECT setval(pg_get_serial_sequence('code_embeddings', 'id'), coalesce(max(id), 1)) FROM code_embeddings;
        CREATE SEQUENCE numbers; CREATE TABLE numbered (id bigint DEFAULT nextval('numbers'));
        INSERT INTO numbered DEFAULT VALUES;"""
    objects = make(conn, *migrations_of(tmp_path, script)).catalogs["002"]["objects"]
    assert objects["column numbered.id"]["default"] == "nextval('numbers'::regclass)"
    assert positions(conn) == before


def positions(conn: Connection) -> list[object]:
    return conn.execute("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1").fetchall()


def test_in_an_open_transaction_only_the_scratch_schema_is_undone(conn: Connection) -> None:
    with conn.transaction():
        run(conn, "CREATE TABLE kept (id int)")
        make(conn, *MIGRATIONS)
    assert conn.execute("SELECT count(*) FROM kept").fetchone() == (0,)


@pytest.mark.usefixtures("unchanged")
def test_a_lost_connection_is_said(conn: Connection, database: Address, tmp_path: Path) -> None:
    with (
        connect(database, purpose="test") as doomed,
        pytest.raises(DatabaseError, match="connection was lost"),
    ):
        make(doomed, *migrations_of(tmp_path, "SELECT pg_terminate_backend(pg_backend_pid());"))


@pytest.fixture
def limited(conn: Connection, database: Address) -> Iterator[Connection]:
    run(conn, "CREATE EXTENSION vector")
    with session_of("limited Role", conn, database) as opened:
        yield opened


def test_the_grant_that_is_needed_is_named(conn: Connection, limited: Connection) -> None:
    with pytest.raises(PrivilegeMissing) as caught:
        make(limited, *MIGRATIONS)
    assert caught.value.hint is not None
    statement = caught.value.hint.removeprefix("ask the administrator for: ")
    assert statement.startswith("GRANT CREATE ON DATABASE ")
    run(conn, statement)
    assert make(limited, *MIGRATIONS) == make(conn, *MIGRATIONS), "it is enough, and who makes it does not matter"


def test_who_may_not_create_the_extension_is_told(conn: Connection, limited: Connection, database: Address) -> None:
    run(conn, "DROP EXTENSION vector")
    conn.execute(
        SQL("GRANT CREATE ON DATABASE {} TO {}").format(Identifier(database.dbname), Identifier("limited Role"))
    )
    with pytest.raises(PrivilegeMissing, match=r"001_.*\.up\.sql:\d+:1") as caught:
        make(limited, *MIGRATIONS)
    assert caught.value.hint == "a superuser runs, in this database: CREATE EXTENSION vector"


def test_default_privileges_of_the_real_schema_count(conn: Connection, limited: Connection) -> None:
    """Supabase grants its API roles what is made in public: no difference, since no one did anything."""
    run(conn, 'ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO "limited Role" WITH GRANT OPTION')
    run(conn, "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON SEQUENCES TO PUBLIC")
    run(conn, 'ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO "limited Role"')
    migrate(conn)
    expected = make(conn, *MIGRATIONS[:1])
    assert differences(conn, expected) == ()
    grants = expected.catalogs["001"]["objects"]["privileges of table code_patterns"]["grants"]
    assert "SELECT with grant option" in grants['"limited Role"']


def test_row_security_is_expected_where_the_roles_of_supabase_are(conn: Connection) -> None:
    names = ("anon", "authenticated", "service_role")
    for name in names:
        conn.execute(SQL("CREATE ROLE {}").format(Identifier(name)))
    try:
        objects = make(conn, *MIGRATIONS).catalogs["001"]["objects"]
    finally:
        for name in names:
            conn.execute(SQL("DROP ROLE {}").format(Identifier(name)))
    assert objects["table code_patterns"]["row_security"] is True
    assert objects["policy code_patterns.code_patterns_service_role"]["roles"] == ["service_role"]


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def _altered(file: Path) -> None:
    file.write_text(file.read_text().replace("not_null", "no_tnull", 1))


def _emptied(file: Path) -> None:
    file.write_bytes(b"")


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _not_text(file: Path) -> None:
    file.write_bytes(b"\xff\n{}")


@pytest.mark.parametrize("damage", [_truncated, _altered, _emptied, _folder, _not_text])
def test_a_damaged_cache_is_ignored(conn: Connection, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    expected = make(conn, *MIGRATIONS, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    damage(file)
    assert make(conn, *MIGRATIONS, cache=tmp_path / "cache") == expected
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [file.name]


def test_the_cache_is_used_and_is_named_after_what_counts(conn: Connection, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def files() -> int:
        return len(list(cache.iterdir()))

    expected = make(conn, *MIGRATIONS[:1], cache=cache)
    with conn.transaction(force_rollback=True):
        run(conn, "SET LOCAL transaction_read_only = on")  # a scratch schema could not be made
        assert make(conn, *MIGRATIONS[:1], cache=cache) == expected
    assert files() == 1
    more = make(conn, *migrations_of(tmp_path / "more", "ALTER TABLE code_patterns ADD COLUMN x int;"), cache=cache)
    assert files() == 2
    assert "column code_patterns.x" in more.catalogs["002"]["objects"]
    run(conn, "CREATE SCHEMA e", "CREATE EXTENSION vector SCHEMA e")
    make(conn, *MIGRATIONS[:1], cache=cache)
    assert files() == 3


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(conn: Connection, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert make(conn, *MIGRATIONS, cache=tmp_path / "file") == make(conn, *MIGRATIONS)
