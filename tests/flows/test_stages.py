"""A migration that fails at each stage of `kg deploy staging`, what the operator reads, and the state that is left."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.settings import CHECKOUT, Settings
from tests.integration.graphs import deploy_graph
from tests.terminal import kg

ADD = "ALTER TABLE code_patterns ADD COLUMN reviewed boolean;"
DROP = "ALTER TABLE code_patterns DROP COLUMN reviewed;"
ONLY_THERE = "current_schema() = 'public' AND current_database() LIKE 'test_%'"


@pytest.fixture(scope="module")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def environments(tmp_path: Path) -> Path:
    """The real files, but for how long a deploy watches, and that nobody is asked."""
    folder = shutil.copytree(CHECKOUT / "deployments" / "environments", tmp_path / "environments")
    for file in folder.glob("*.toml"):
        text, found = re.subn(r'(?m)^duration = "\w+"', 'duration = "PT3S"', file.read_text())
        assert found == 1
        file.write_text(text.replace("required = 1", "required = 0"))
    return Path(folder)


@pytest.fixture
def staging(
    variables: dict[str, str], prefect_home: Path, environments: Path, settings: Settings, conn: Connection
) -> dict[str, str]:
    """The variables of a staging database at a verified revision 001, with rows in it."""
    deploy_graph(conn, settings, rows=40)
    conn.execute("UPDATE code_embeddings SET tokens_count = 0")
    ledger.mark_verified(conn, ["001"])
    ours = {name: value for name, value in variables.items() if not name.startswith("SUPABASE_")}
    return {
        **ours,
        "STAGING_DB_URL": variables["SUPABASE_URL"],
        "STAGING_DB_PASSWORD": variables["SUPABASE_DB_PASSWORD"],
        "KG_ENVIRONMENTS": str(environments),
        "PREFECT_HOME": str(prefect_home),
    }


def ahead(folder: Path, up: str, down: str) -> None:
    (folder / "002_review_patterns.up.sql").write_text(up)
    (folder / "002_review_patterns.down.sql").write_text(down)


def state(conn: Connection) -> tuple[str, object]:
    rows = conn.execute("SELECT count(*), sum(tokens_count) FROM code_embeddings").fetchone()
    return fingerprint(read_catalog(conn, "public")), rows


def applied(conn: Connection) -> list[str]:
    return [entry.revision for entry in ledger.entries(conn)]


def last_operation(conn: Connection) -> tuple[object, ...] | None:
    return conn.execute("SELECT state, detail FROM kg_ops.operation ORDER BY started_at DESC LIMIT 1").fetchone()


def fails(staging: dict[str, str], conn: Connection, *words: str) -> str:
    """Deploy; the error stream. The database is afterwards what it was."""
    before = state(conn)
    done = kg("deploy", "staging", "--yes", **staging)
    assert done.returncode == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert state(conn) == before
    assert applied(conn) == ["001"]
    return done.stderr


@contextmanager
def clients(database: Address) -> Iterator[None]:
    """An application that goes on writing patterns, whether that succeeds or not."""
    done = threading.Event()

    def write() -> None:
        with connect(database, purpose="application") as mine:
            number = 0
            while not done.wait(0.02):
                number += 1
                with suppress(psycopg.Error):
                    mine.execute(
                        "INSERT INTO code_patterns (pattern_name, pattern_type, pattern_template, language, frequency)"
                        " VALUES (%s, '', '', 'python', 10) ON CONFLICT (pattern_name, language) DO NOTHING",
                        (f"pattern {number}",),
                    )

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_in_the_rehearsal(staging: dict[str, str], migrations: Path, conn: Connection) -> None:
    """Rows that only the real data have: the database is never touched."""
    ahead(migrations, "ALTER TABLE code_embeddings ADD CONSTRAINT counted CHECK (tokens_count > 0);",
          "ALTER TABLE code_embeddings DROP CONSTRAINT counted;")  # fmt: skip
    plan = kg("plan", "staging", **staging)
    assert plan.returncode == 0
    assert "AccessExclusiveLock" in plan.stdout
    assert "[constraint-missing-not-valid]" in plan.stdout
    said = fails(staging, conn, "Restore drill")
    assert (
        "kg: 002_review_patterns fails on the restored copy: 002_review_patterns.up.sql:1:1: check constraint" in said
    )
    assert "hint: the database was not touched; mend the migration, or the rows, and deploy again\n" in said
    assert "Migrate" not in said
    steps = conn.execute("SELECT DISTINCT step FROM kg_ops.journal").fetchall()
    assert {"rehearsal", "backup"} <= {str(row[0]) for row in steps}
    assert "apply" not in {str(row[0]) for row in steps}
    assert ledger.history(conn)[-1].state == "applied"


def test_while_it_is_applied(staging: dict[str, str], migrations: Path, conn: Connection) -> None:
    """Whole or not at all: its transaction is rolled back, and nothing is left to undo."""
    ahead(migrations, f"{ADD}\nSELECT 1 / (CASE WHEN {ONLY_THERE} THEN 0 ELSE 1 END);", DROP)
    said = fails(staging, conn, "Migrate", "rehearsed 002 review_patterns: up ")
    assert said.endswith("kg: 002_review_patterns.up.sql:2:1: division by zero (22012)\n"
                         "hint: staging is as it was, at revision 001; mend that and deploy again\n")  # fmt: skip
    assert len(ledger.history(conn)) == 1


def test_in_the_verification(staging: dict[str, str], migrations: Path, conn: Connection) -> None:
    """Applied, but not what the migrations make: reverted, and told so."""
    drop = f"DO $$ BEGIN IF {ONLY_THERE} THEN DROP INDEX code_patterns_language_idx; END IF; END $$;"
    make = "CREATE INDEX IF NOT EXISTS code_patterns_language_idx ON code_patterns (language);"
    ahead(migrations, f"{ADD}\n{drop}", f"{DROP}\n{make}")
    said = fails(staging, conn, "Verify", "Roll back")
    assert "kg: staging is not what its revision says: " in said
    assert "index code_patterns_language_idx on code_patterns: missing" in said
    assert said.endswith("hint: rolled back by revert: staging is at revision 001 again; mend that and deploy again\n")
    assert [(entry.revision, entry.state) for entry in ledger.history(conn)] == [
        ("001", "applied"),
        ("002", "reverted"),
    ]


def test_while_it_is_watched(staging: dict[str, str], migrations: Path, conn: Connection, database: Address) -> None:
    """All is well in itself, but the application's writes fail from now on: reverted."""
    ahead(migrations, "ALTER TABLE code_patterns ADD CONSTRAINT seldom CHECK (frequency < 5) NOT VALID;",
          "ALTER TABLE code_patterns DROP CONSTRAINT seldom;")  # fmt: skip
    with clients(database):
        said = fails(staging, conn, "Watch", "Roll back")
    assert "kg: staging does worse after the migration: rollbacks: " in said
    assert said.endswith("hint: rolled back by revert: staging is at revision 001 again; mend that and deploy again\n")
    assert "the application's log says which statements fail" in said
    operation = last_operation(conn)
    assert operation is not None
    assert operation[0] == "rolled-back"


def test_staging_first_then_production(
    staging: dict[str, str], migrations: Path, conn: Connection, postgres: Address, settings: Settings
) -> None:
    """Production waits for staging's proof, and goes when it is there. What the rehearsal found is in the journal."""
    ahead(migrations, ADD, DROP)
    name = f"{conn.info.dbname[:50]}_production"
    conn.execute(f'CREATE DATABASE "{name}" TEMPLATE template0'.encode())
    both = {
        **staging,
        "PRODUCTION_DB_URL": staging["STAGING_DB_URL"].replace(conn.info.dbname, name),
        "PRODUCTION_DB_PASSWORD": staging["STAGING_DB_PASSWORD"],
    }
    try:
        with connect(postgres.database(name), purpose="test") as production:
            deploy_graph(production, settings, rows=5)
            ledger.mark_verified(production, ["001"])
            refused = kg("deploy", "production", "--yes", **both)
            assert refused.returncode == 3, refused.stderr
            assert "staging has not proved what is pending: 002_review_patterns is not applied there" in refused.stderr
            assert "hint: kg deploy staging" in refused.stderr
            assert "Back up" not in refused.stderr
            first = kg("deploy", "staging", "--yes", **both)
            assert first.returncode == 0, first.stderr
            operation = last_operation(conn)
            assert operation is not None
            assert isinstance(operation[1], dict)
            [rehearsed] = operation[1]["rehearsal"]
            assert rehearsed["statements"][0]["locks"][0]["mode"] == "AccessExclusiveLock"
            assert rehearsed["rows"] == {"code_patterns": 0}
            then = kg("deploy", "production", "--yes", **both)
            assert then.returncode == 0, then.stderr
            assert applied(production) == applied(conn) == ["001", "002"]
    finally:
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
