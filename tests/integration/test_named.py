"""A migration that names a table with its schema: refused before anything runs, so that nobody waits for the trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.addresses import Address
from tasks.core.errors import MigrationFailed
from tasks.core.operations.plan import preview
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.schema.named import refuse_named
from tasks.core.schema.statements import split_statements
from tasks.core.settings import Settings
from tests.integration.expecting import make
from tests.integration.schemas import migrate, migrations_of

REFUSED = {
    "in a block": "DO $$ BEGIN ALTER TABLE public.code_patterns ADD COLUMN zz text; PERFORM pg_sleep(8); END $$;",
    "in what a block executes": "DO $$ BEGIN EXECUTE 'TRUNCATE public.code_patterns'; END $$;",
    "altered": "ALTER TABLE ONLY public.code_patterns ADD COLUMN zz text;",
    "quoted": 'ALTER TABLE "public" . "code_patterns" ADD COLUMN zz text;',
    "in capitals": "DELETE FROM PUBLIC.Code_Patterns WHERE id < 100;",
    "an index on it": "CREATE UNIQUE INDEX CONCURRENTLY zz ON public.code_patterns (id);",
    "its index": "DROP INDEX public.code_patterns_pkey;",
    "after a comment": "-- public.code_patterns\nUPDATE /* public.x */ public.code_patterns SET id = id;",
    "in a CTE": "WITH gone AS (DELETE FROM public.code_patterns RETURNING id) SELECT count(*) FROM gone;",
}
TAKEN = {
    "a type": "ALTER TABLE code_patterns ADD COLUMN zz public.vector(3);",
    "a function": "UPDATE code_patterns SET id = public.l2_norm('[1]'::public.vector)::int;",
    "in a string": "ALTER TABLE code_patterns ALTER COLUMN id SET DEFAULT nextval('public.code_patterns_id_seq');",
    "in a comment": "ALTER TABLE code_patterns -- once public.code_patterns\n ADD COLUMN zz text;",
    "kept for later": "CREATE VIEW zz AS SELECT count(*) FROM public.code_patterns;",
    "an alias": "UPDATE code_patterns SET id = public.id FROM (SELECT 1 AS id) AS public;",
    "what is not there": "DROP TABLE IF EXISTS public.of_long_ago;",
}


@pytest.mark.parametrize("sql", REFUSED.values(), ids=REFUSED)
def test_what_changes_a_table_by_its_qualified_name_is_refused(conn: Connection, sql: str) -> None:
    migrate(conn)
    with pytest.raises(MigrationFailed, match=r"^002\.sql:\d+:\d+: names public\.code_pat") as refused:
        refuse_named(conn, split_statements(sql, "002.sql"), "002.sql")
    assert "alone: the search_path decides" in (refused.value.hint or "")


@pytest.mark.parametrize("sql", TAKEN.values(), ids=TAKEN)
def test_what_only_names_the_schema_is_taken(conn: Connection, sql: str) -> None:
    migrate(conn)
    refuse_named(conn, split_statements(sql, "002.sql"), "002.sql")


def test_its_place_is_said(conn: Connection) -> None:
    migrate(conn)
    sql = "SELECT 1;\n\nALTER TABLE\n  public.code_patterns ADD COLUMN zz text;"
    with pytest.raises(MigrationFailed, match=r"^002\.sql:4:3: names "):
        refuse_named(conn, split_statements(sql, "002.sql"), "002.sql")


@pytest.mark.parametrize("way", ["in a block", "altered"])
def test_a_reader_never_waits_for_the_trial(conn: Connection, database: Address, tmp_path: Path, way: str) -> None:
    """The reader holds its lock: had the statement run, it would have waited for lock_timeout and said so."""
    migrate(conn)
    late = migrations_of(tmp_path, REFUSED[way])
    with connect(database, purpose="test reader", autocommit=False) as reader:
        reader.execute("SELECT count(*) FROM code_patterns")
        with pytest.raises(MigrationFailed, match=r"002_change_something\.up\.sql:1:.* nothing was run"):
            make(conn, *late)


def test_what_was_applied_before_goes_on_being_verified(conn: Connection, tmp_path: Path) -> None:
    """A block that only reads what it names was never found out, and was run."""
    migrate(conn)
    conn.execute("CREATE TABLE theirs (id int)")
    reads = "DO $$ BEGIN IF EXISTS (SELECT FROM public.theirs) THEN RAISE NOTICE 'some'; END IF; END $$;"
    migrations = migrations_of(tmp_path, reads)
    ledger.ensure(conn)
    for migration in migrations:
        ledger.record_applied(conn, migration)
    assert list(make(conn, *migrations).catalogs) == ["", "001", "002"]


def test_a_plan_says_it_too(settings: Settings, conn: Connection, tmp_path: Path) -> None:
    migrate(conn)
    ledger.ensure(conn)
    ledger.record_applied(conn, migrations_of(tmp_path, REFUSED["altered"])[0])
    with pytest.raises(MigrationFailed, match=r"names public\.code_patterns with its schema; nothing was run"):
        preview(settings.model_copy(update={"migrations": tmp_path}))
