"""Making the expected catalog moves no sequence that is there: no rollback would take that back."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.errors import MigrationFailed, PrivilegeMissing
from tasks.core.postgres.connections import Connection
from tests.integration.expecting import limited, make
from tests.integration.schemas import migrate, migrations_of, run

__all__ = ["limited"]  # fixtures


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
    "a serial column": "INSERT INTO theirs (said) VALUES ('x');",
    "an identity column": "INSERT INTO identified (said) VALUES ('x');",
    "an identity column, anew": "UPDATE identified SET id = DEFAULT;",
    "a block with a default in it": "DO $$ BEGIN PERFORM setval('theirs_seq', 1000);"
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


@pytest.mark.parametrize("reads", [True, False])
def test_another_roles_function_that_moves_its_own_sequence_is_found_out(
    conn: Connection, limited: Connection, tmp_path: Path, reads: bool
) -> None:
    """SECURITY DEFINER: nothing that is taken from our role keeps its owner's rights from it."""
    role, database = Identifier("limited Role"), Identifier(conn.info.dbname)
    conn.execute(SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, role))
    run(conn, "CREATE SEQUENCE theirs_seq", "SELECT setval('theirs_seq', 41)",
        "CREATE FUNCTION public.jump() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog"
        " AS $$ SELECT setval('public.theirs_seq', 1000) $$")  # fmt: skip
    if reads:
        conn.execute(SQL("GRANT SELECT ON theirs_seq TO {}").format(role))
    with pytest.raises(
        MigrationFailed, match=r"002_change_something\.up\.sql:1:1: .*theirs_seq.*which no migr"
    ) as caught:
        make(limited, *migrations_of(tmp_path, "SELECT public.jump();"))
    assert "was moved for good" in caught.value.message
    assert ("SELECT setval('public.theirs_seq', 41, t)" in (caught.value.hint or "")) is reads


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
