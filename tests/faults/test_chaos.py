"""The short form of chaos.py; the long one is `python -m tests.faults.chaos --minutes N --seed S`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.addresses import Address
from tasks.core.documents import RecoverDocument
from tasks.core.postgres.connections import Connection
from tasks.core.settings import CHECKOUT, Settings
from tests.faults.chaos import rage
from tests.faults.proofs import TEMPLATE_ROW, lost
from tests.faults.runs import variables
from tests.processes import until
from tests.terminal import MAIN, OURS, kg

SECONDS = 40
SEED = 20251017


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_after_any_kill_recover_leaves_the_old_or_the_new_state(capsys: pytest.CaptureFixture[str]) -> None:
    tally = rage(SECONDS, SEED)
    with capsys.disabled():
        print(f"\n{tally}")
    assert tally.kills >= 3
    assert tally.wrong == []
    assert tally.lost == 0


def test_the_proof_tells_what_a_reset_deleted_from_what_was_lost(conn: Connection, database: Address) -> None:
    committed = {f"written-{writer}-{number}" for writer in (0, 1) for number in range(1, 5)}
    conn.execute("CREATE TABLE code_embeddings (file_path text)")

    def proved(rows: set[str], *, reset: bool = True) -> set[str]:
        conn.execute("TRUNCATE code_embeddings")
        conn.execute("INSERT INTO code_embeddings SELECT unnest(%s::text[])", [list(rows)])
        return lost(committed, conn, database.database, reset=reset)

    later = {"written-0-3", "written-0-4", "written-1-4"}
    assert proved(later) == set()
    assert proved(set()) == set()
    assert proved(later, reset=False) == committed - later
    assert proved(later - {"written-0-4"} | {"written-0-2"}) == {"written-0-4"}
    assert proved(later | {TEMPLATE_ROW}) == committed - later  # it never came to empty them


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_command_itself_killed_while_it_migrates(settings: Settings, conn: Connection, tmp_path: Path) -> None:
    words = [sys.executable, "-c", MAIN, "deploy", "dev", "--yes", "--json"]
    env = {**variables(settings), "PREFECT_HOME": str(tmp_path / "prefect")}
    with subprocess.Popen(words, env=env, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        until(lambda: begun(conn, "apply"), seconds=120)
        child.send_signal(signal.SIGKILL)
    done = kg("recover", "dev", "--json", **{name: env[name] for name in env if name.startswith(OURS)})
    assert done.returncode == 0, done.stderr
    document = RecoverDocument.model_validate(json.loads(done.stdout))
    assert document.state == "recovered"
    assert document.dead[0].kind == "deploy"
    # The one transaction of 001 was committed, or it was not: nothing between.
    tables = conn.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert (document.revision, tables) in [(None, (0,)), ("001", (4,))]
    again = kg("recover", "dev", "--json", **{name: env[name] for name in env if name.startswith(OURS)})
    assert json.loads(again.stdout)["state"] == "nothing-to-recover"


def begun(conn: Connection, step: str) -> bool:
    if conn.execute("SELECT to_regclass('kg_ops.journal')").fetchone() == (None,):
        return False
    return conn.execute("SELECT FROM kg_ops.journal WHERE step = %s", (step,)).fetchone() is not None
