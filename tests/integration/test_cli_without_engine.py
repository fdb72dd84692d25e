"""Verbs that only read: they import no flow engine, and answer from a real database."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.core.addresses import Address
from tests.terminal import clean_environment, kg

pytestmark = pytest.mark.slow

# Runs one command line in this process, then says on the last line of the error stream which packages it imported.
WATCHED = """
import sys
from flows.cli.app import run
status = run(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(status)
"""
HEAVY = {"prefect", "sqlalchemy", "fastapi", "httpx"}


@pytest.fixture
def variables(database: Address, tmp_path: Path) -> dict[str, str]:
    assert database.password is not None
    return {
        "KG_HOME": str(tmp_path / "home"),
        "KG_STORE_URL": (tmp_path / "store").as_uri(),
        "SUPABASE_URL": f"postgresql://{database.user}@{database.host}:{database.port}/{database.dbname}",
        "SUPABASE_DB_PASSWORD": database.password.get_secret_value(),
    }


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("check", "dev"), 0),
        (("plan", "dev"), 0),
        (("verify", "dev"), 1),  # nothing is deployed yet
        (("backups", "dev"), 0),
        (("search", "dev", "parse json"), 1),
        (("reindex", "dev"), 0),
        (("prune", "dev"), 0),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_reading_verb_starts_no_engine(words: tuple[str, ...], status: int, variables: dict[str, str]) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *words, "--json"],
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    taken = time.monotonic() - begun
    assert done.returncode == status, done.stderr
    assert isinstance(json.loads(done.stdout), dict | list)
    assert not HEAVY & set(done.stderr.splitlines()[-1].split())
    assert taken < 30, "1 to 2 s on an idle machine; others may have the cores"


def test_a_wrong_password_is_one_line(variables: dict[str, str]) -> None:
    done = kg("check", "dev", **{**variables, "SUPABASE_DB_PASSWORD": "wrong-and-secret"})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert done.stderr.startswith("kg: ")
    assert "wrong-and-secret" not in done.stderr
    assert done.stdout == ""


def test_an_unknown_host_is_one_line(variables: dict[str, str]) -> None:
    done = kg("backups", "dev", "--json", **{**variables, "KG_STORE_URL": "s3:/wrong"})
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "settings"
    done = kg("verify", "dev", **{**variables, "SUPABASE_URL": "postgresql://kg@no-such-host.invalid:5432/kg"})
    assert done.returncode == 1
    assert "no-such-host.invalid" in done.stderr
    assert "Traceback" not in done.stderr
