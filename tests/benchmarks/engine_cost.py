"""What `kg deploy dev` spends outside of database work, on a machine that has done it before."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tasks.core.postgres import embedded
from tasks.core.postgres.connections import connect
from tasks.core.settings import CHECKOUT

_STEPS = """
SELECT coalesce(sum(extract(epoch FROM ended.at - began.at)), 0)::float8 FROM kg_ops.journal began
JOIN kg_ops.journal ended USING (operation, step)
WHERE began.state = 'started' AND ended.state = 'done'
  AND operation = (SELECT id FROM kg_ops.operation ORDER BY started_at DESC LIMIT 1)
"""
_SPAN = """
SELECT extract(epoch FROM finished_at - started_at)::float8 FROM kg_ops.operation ORDER BY started_at DESC LIMIT 1
"""


def engine_cost() -> dict[str, float]:
    """Seconds: of a whole deploy (its home is used by an earlier command, its database fresh), of the steps in its
    journal, and of a deploy with nothing pending, with and without what lies in its operation.
    """
    from tests.benchmarks.vectors import stop

    with tempfile.TemporaryDirectory(prefix="kg-benchmark-") as place:
        home = Path(place, "home")
        Path(place).chmod(0o755)
        try:
            _deploy(home)
            _forget(home)
            whole = _deploy(home)
            steps = _ask(home, _STEPS)
            again = _deploy(home)
            span = _ask(home, _SPAN)
        finally:
            stop(home)
    return {
        "kg deploy dev, seconds": whole,
        "... of them outside of its journalled steps": whole - steps,
        "kg deploy dev with nothing pending, seconds": again,
        "... of them outside of its operation": again - span,
    }


def _deploy(home: Path) -> float:
    env = {name: text for name, text in os.environ.items() if not name.startswith(("KG_", "SUPABASE_"))}
    began = time.monotonic()
    subprocess.run(
        [str(Path(sys.executable).parent / "kg"), "deploy", "dev", "--yes"],
        env={**env, "KG_HOME": str(home)},
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
    )
    return time.monotonic() - began


def _forget(home: Path) -> None:
    """The database is as it was before its first deploy."""
    with connect(embedded.ensure(home), purpose="benchmark") as conn:
        conn.execute("DROP SCHEMA public, kg_ops CASCADE; CREATE SCHEMA public")


def _ask(home: Path, question: str) -> float:
    with connect(embedded.ensure(home), purpose="benchmark") as conn:
        row = conn.execute(question.encode()).fetchone()
    assert row
    return float(row[0])
