"""What a migration may not reach: the server, its files, other sessions; and what a plan says of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import MigrationFailed
from tasks.core.schema.hazards import lint
from tasks.core.schema.migrations import load_migrations
from tasks.core.schema.reach import cluster_wide
from tasks.core.schema.scripts import read_script

ALONE = "-- migrate: no-transaction\n"


def write(folder: Path, up: str) -> Path:
    file = folder / "001_reach.up.sql"
    file.write_text(up)
    return file


@pytest.mark.parametrize(
    ("up", "said"),
    [
        ("ALTER SYSTEM SET work_mem = '1GB';", "1:1: ALTER SYSTEM, which is the server's"),
        (f"{ALONE}Alter  System RESET ALL;", "2:1: ALTER SYSTEM, which is the server's"),
        (f"{ALONE}CREATE DATABASE other;", "2:1: CREATE DATABASE, which is the server's"),
        ('DROP DATABASE "other";', "1:1: DROP DATABASE, which is the server's"),
        ("SELECT 1;\nCREATE TABLESPACE fast LOCATION '/fast';", "2:1: CREATE TABLESPACE, which is the server's"),
        ("COPY t (a) FROM PROGRAM 'id'", "1:1: COPY ... PROGRAM"),
        ("COPY (SELECT 1) TO PROGRAM 'cat > /tmp/x';", "1:1: COPY ... PROGRAM"),
        ("DO $$ BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''id'''; END $$;", "1:1: COPY ... PROGRAM"),
        ("COPY (SELECT 1) TO '/tmp/x';", "1:1: COPY ... TO a file of the server"),
        ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity;", r"1:1: pg_terminate_backend\(\), whose work outl"),
        ("SELECT pg_catalog.pg_reload_conf();", r"1:1: pg_reload_conf\(\), whose work outlasts"),
        ("DO $$ BEGIN PERFORM pg_cancel_backend(1); END $$;", r"1:1: pg_cancel_backend\(\), whose work outlasts"),
        ("CREATE TABLE t AS SELECT lo_export(1, '/tmp/x');", r"1:1: lo_export\(\), whose work outlasts"),
    ],
)
def test_what_no_rollback_takes_back_is_refused_with_its_place(tmp_path: Path, up: str, said: str) -> None:
    with pytest.raises(MigrationFailed, match=rf"^001_reach\.up\.sql:{said}.* in a migration \(") as refused:
        read_script(write(tmp_path, up), "up")
    assert "do it by hand" in (refused.value.hint or "")


@pytest.mark.parametrize(
    "up",
    [
        "COMMENT ON TABLE t IS 'ALTER SYSTEM, DROP DATABASE, pg_reload_conf()';",
        "-- CREATE DATABASE other\nSELECT 'pg_terminate_backend(1)';",
        "REVOKE EXECUTE ON FUNCTION pg_reload_conf() FROM app;",
        "CREATE FUNCTION end_it() RETURNS boolean LANGUAGE sql AS $$ SELECT pg_terminate_backend(1) $$;",
        "CREATE USER MAPPING FOR app SERVER elsewhere;",
        "ALTER TABLE roles ADD COLUMN alter_system text;",
        "COPY t FROM '/srv/rows.csv';",
        "SELECT 1;",
    ],
)
def test_what_only_speaks_of_it_is_none(tmp_path: Path, up: str) -> None:
    script = read_script(write(tmp_path, up), "up")
    assert list(cluster_wide(script.statements)) == []


@pytest.mark.parametrize(
    ("up", "what"),
    [
        ("SELECT 1;\n  CREATE ROLE app LOGIN;", "CREATE ROLE"),
        ("SELECT 1;\n  DROP USER IF EXISTS app;", "DROP USER"),
        ("SELECT 1;\n  ALTER DATABASE graph SET work_mem = '1GB';", "ALTER DATABASE"),
        ("SELECT 1;\n  DO $$ BEGIN IF true THEN CREATE  ROLE app; END IF; END $$;", "CREATE ROLE"),
    ],
)
def test_what_the_whole_server_feels_is_a_hazard_of_the_plan(tmp_path: Path, up: str, what: str) -> None:
    write(tmp_path, up)
    (tmp_path / "001_reach.down.sql").write_text("SELECT 1;")
    found = [each for each in lint(load_migrations(tmp_path), 18).hazards["001"] if each.rule == "cluster-wide"]
    assert [(each.line, each.column) for each in found] == [(2, 3)]
    assert found[0].message.startswith(f"{what} changes the whole server")
    assert found[0].remedy
