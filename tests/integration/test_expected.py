"""The expected catalog: made on the server itself, leaving nothing behind, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.errors import MigrationFailed, PrivilegeMissing
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema.catalog import fingerprint, read_catalog
from tests.integration.expecting import limited, make
from tests.integration.schemas import MIGRATIONS, differences, migrate, migrations_of, run

__all__ = ["limited"]  # fixtures


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


def test_in_an_open_transaction_only_the_scratch_schema_is_undone(conn: Connection) -> None:
    with conn.transaction():
        run(conn, "CREATE TABLE kept (id int)")
        make(conn, *MIGRATIONS)
    assert conn.execute("SELECT count(*) FROM kept").fetchone() == (0,)


@pytest.mark.usefixtures("unchanged")
def test_a_migration_that_ends_its_own_session_is_named(conn: Connection, database: Address, tmp_path: Path) -> None:
    ends = "SELECT 1;\nDO $$ BEGIN EXECUTE 'SELECT pg_terminate' || '_backend(pg_backend_pid())'; END $$;"
    with (
        connect(database, purpose="test") as doomed,
        pytest.raises(
            MigrationFailed, match=r"002_change_something\.up\.sql:2:1: the session ended while this ran"
        ) as caught,
    ):
        make(doomed, *migrations_of(tmp_path, ends))
    assert "a migration cannot end sessions" in (caught.value.hint or "")
    assert "\n" not in caught.value.message


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
