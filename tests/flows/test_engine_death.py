"""Prefect's server dies while a deploy migrates, and the migration is a bad one: the way back does not wait for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.settings import CHECKOUT, Settings
from tests.integration.graphs import deploy_graph
from tests.processes import kill_hard, until, using
from tests.terminal import MAIN, clean_environment

pytestmark = pytest.mark.slow

SLOW_AND_BAD = """ALTER TABLE code_patterns ADD COLUMN reviewed boolean;
DO $$ BEGIN IF current_schema() = 'public' AND current_database() LIKE 'test_%' THEN
    PERFORM pg_sleep(5); DROP INDEX code_patterns_language_idx;
END IF; END $$;
"""
BACK = """ALTER TABLE code_patterns DROP COLUMN reviewed;
CREATE INDEX IF NOT EXISTS code_patterns_language_idx ON code_patterns (language);
"""


@pytest.mark.timeout(290)
def test_the_way_back_does_not_wait_for_a_dead_engine(
    variables: dict[str, str], migrations: Path, settings: Settings, conn: Connection, tmp_path: Path
) -> None:
    deploy_graph(conn, settings, rows=20)
    ledger.mark_verified(conn, ["001"])
    before = fingerprint(read_catalog(conn, "public"))
    (migrations / "002_review_patterns.up.sql").write_text(SLOW_AND_BAD)
    (migrations / "002_review_patterns.down.sql").write_text(BACK)
    home = tmp_path / "prefect"
    child = subprocess.Popen(
        [sys.executable, "-c", MAIN, "deploy", "dev", "--yes"],
        env=clean_environment(**variables, PREFECT_HOME=str(home)),
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until(lambda: begun(conn, "apply"), seconds=200)
    [server] = using(home, "flows.cli.server")
    kill_hard(server)
    try:
        said, _ = child.communicate(timeout=150)  # without a new server it went on for over 240 s on an idle machine
    finally:
        child.kill()
    assert child.returncode == 1, said
    assert "begun anew" in said
    assert "Traceback" not in said
    gone = [("001", "applied"), ("002", "reverted")]
    assert [(entry.revision, entry.state) for entry in ledger.history(conn)] == gone
    assert fingerprint(read_catalog(conn, "public")) == before


def begun(conn: Connection, step: str) -> bool:
    return conn.execute("SELECT FROM kg_ops.journal WHERE step = %s", (step,)).fetchone() is not None
