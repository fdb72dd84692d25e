"""kg status: one line an environment that answers "am I safe?"; nothing it finds is its failure."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.errors import Refused
from tasks.core.operations.operation import operation
from tasks.core.operations.status import status, status_of
from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.migrations import apply, load_migrations
from tasks.core.settings import Settings
from tests.terminal import kg


@pytest.fixture
def deployed(conn: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """dev is the test's database, at its newest revision, verified, without a backup."""
    address = settings.address
    assert address
    assert address.password
    monkeypatch.setenv("SUPABASE_URL", f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}")
    monkeypatch.setenv("SUPABASE_DB_PASSWORD", address.password.get_secret_value())
    monkeypatch.setenv("KG_HOME", str(settings.home))
    monkeypatch.setenv("KG_STORE_URL", settings.store_url)
    for name in ("STAGING_DB_URL", "PRODUCTION_DB_URL"):
        monkeypatch.delenv(name, raising=False)
    ledger.ensure(conn)
    ledger.identity(conn)
    for migration in load_migrations(settings.migrations):
        apply(conn, migration, settings.database, lambda conn, one=migration: ledger.record_applied(conn, one))
        ledger.mark_verified(conn, [migration.revision])
    return settings


def test_from_nothing_to_safe_and_too_old(
    deployed: Settings, conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = status_of("dev")
    assert (found.standing, found.next) == ("not-safe", "kg backup dev"), found
    made = back_up(deployed)
    found = status_of("dev")
    assert (found.standing, found.next) == ("not-safe", "kg restore-drill dev"), found
    assert found.backup is None
    proof = drill(deployed, made)
    found = status_of("dev")
    assert found.standing == "safe", found
    assert found.next == ""
    assert found.verdict.startswith("safe as of 0 min ago: comes back in ")
    assert found.revision == load_migrations(deployed.migrations)[-1].revision
    assert found.backup
    assert (found.backup.id, found.backup.grade) == (made.id, proof.grade)
    assert (found.running, found.waiting, found.pending) == ((), (), ())

    (tmp_path / "dev.toml").write_text('[backup]\nmax_proof_age = "PT0.001S"\n')
    monkeypatch.setenv("KG_ENVIRONMENTS", str(tmp_path))
    found = status_of("dev")
    assert (found.standing, found.next) == ("not-safe", "kg backup dev"), found
    assert "old, the limit is 0 min" in found.verdict
    monkeypatch.delenv("KG_ENVIRONMENTS")

    conn.execute(
        "INSERT INTO kg_ops.operation (id, kind, environment, fence, host, pid, backend_pid)"
        " VALUES (gen_random_uuid(), 'deploy', 'dev', 1, 'here', 1, 1)"
    )
    found = status_of("dev")
    assert (found.standing, found.next) == ("not-safe", "kg recover dev"), found
    conn.execute("SELECT pg_advisory_lock(27495, 1)")
    found = status_of("dev")
    assert found.standing == "safe", "somebody holds the lock: it is under way"
    assert [(each.kind, each.alive) for each in found.running] == [("deploy", True)]


def test_what_is_not_there_is_a_line(deployed: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGING_DB_URL", "postgresql://kg@127.0.0.1:1/nothing")
    began = time.monotonic()
    document = status(["dev", "staging", "production"])
    assert time.monotonic() - began < 5
    assert [each.standing for each in document.environments] == ["not-safe", "unreachable", "not-configured"]
    assert document.environments[2].verdict == "PRODUCTION_DB_URL is not set"
    assert not document.safe


def _ended(conn: Connection, state: str, detail: str = "{}") -> None:
    conn.execute(
        "INSERT INTO kg_ops.operation"
        " (id, kind, environment, fence, host, pid, backend_pid, state, finished_at, detail)"
        " VALUES (gen_random_uuid(), 'deploy', 'dev', 1, 'here', 1, 1, %s, now(), %s)",
        (state, detail),
    )


def test_how_the_last_deploy_went(deployed: Settings, conn: Connection) -> None:
    assert status_of("dev").failed is None
    for state, detail, said in (
        ("failed", "{}", "failed"),
        ("rolled-back", "{}", "rolled-back"),
        ("failed", '{"interrupted": true}', "interrupted"),
        ("failed", '{"refused": true}', "interrupted"),  # it did nothing: what was before it still holds
    ):
        _ended(conn, state, detail)
        failed = status_of("dev").failed
        assert failed is not None
        assert (failed.kind, failed.state) == ("deploy", said)
    _ended(conn, "done")
    assert status_of("dev").failed is None


def test_an_operation_writes_down_whether_it_was_refused_or_interrupted(deployed: Settings, conn: Connection) -> None:
    for error, written in ((Refused("shut"), "refused"), (KeyboardInterrupt(), "interrupted")):
        with pytest.raises(type(error)), operation(deployed, "deploy"):
            raise error
        rows = conn.execute("SELECT state, detail FROM kg_ops.operation ORDER BY started_at DESC LIMIT 1").fetchall()
        assert rows == [("failed", {written: True})]


def test_a_backup_of_an_empty_database_makes_nothing_safe(deployed: Settings, conn: Connection) -> None:
    drill(deployed, back_up(deployed))
    assert status_of("dev").standing == "safe"
    conn.execute("UPDATE kg_ops.ledger SET state = 'reverted'")
    found = status_of("dev")
    assert (found.standing, found.verdict, found.next) == ("nothing-yet", "nothing is deployed", "kg deploy dev")
    assert found.backup, "it is there, and is shown"
    assert not found.fine


def test_the_next_step_of_a_fresh_production_goes_through_its_gate(
    deployed: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = deployed.address
    assert address
    assert address.password
    where = f"postgresql://{address.user}@{address.host}:{address.port}/"
    for name, database in (("STAGING", address.dbname), ("PRODUCTION", "postgres")):
        monkeypatch.setenv(f"{name}_DB_URL", where + database)
        monkeypatch.setenv(f"{name}_DB_PASSWORD", address.password.get_secret_value())
    assert status_of("production").next == "kg deploy production", "staging has proved what is pending"
    conn.execute("UPDATE kg_ops.ledger SET verified_at = NULL")
    assert status_of("production").next == "kg deploy staging"


def test_the_verb_is_fast_and_never_fails(tmp_path: Path) -> None:
    variables = {"KG_HOME": str(tmp_path / "home")}
    began = time.monotonic()
    done = kg("status", "--json", **variables)
    assert time.monotonic() - began < 10
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["environments"]
    assert [each["environment"] for each in found] == ["dev", "staging", "production"]
    assert (found[0]["standing"], found[0]["next"]) == ("nothing-yet", "kg deploy dev")
    assert not (tmp_path / "home" / "postgres").exists(), "it looks, and makes nothing"
    assert kg("status", "nowhere", **variables).returncode == 2


def test_a_missing_password_is_named(deployed: Settings, conn: Connection) -> None:
    address = deployed.address
    assert address
    where = f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}"
    done = kg("check", "dev", KG_HOME=str(deployed.home), SUPABASE_URL=where, PGPASSFILE="/dev/null")
    assert done.returncode == 1
    assert "set SUPABASE_DB_PASSWORD: it is not set" in done.stderr


def test_a_failed_verification_says_what_to_do_next(
    deployed: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli.app import run

    monkeypatch.setenv("KG_MIGRATIONS", str(deployed.migrations))
    conn.execute("ALTER TABLE code_patterns DROP COLUMN frequency")
    assert run(["verify", "dev"]) == 1
    assert "next: kg rollback dev goes back to before the newest deploy" in capsys.readouterr().out


def test_a_file_that_was_edited_is_no_reason_to_roll_back(
    deployed: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli.app import run

    folder = Path(shutil.copytree(deployed.migrations, tmp_path / "edited"))
    monkeypatch.setenv("KG_MIGRATIONS", str(folder))
    first = next(folder.glob("001_*.up.sql"))
    first.write_text(f"{first.read_text()}\n-- a remark\n")
    assert run(["verify", "dev"]) == 1
    said = capsys.readouterr().out
    assert "next: bring the applied text back" in said
    assert "kg rollback" not in said


def test_no_archive_is_a_note_with_its_meaning(deployed: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.cli.app import run

    assert run(["check", "dev"]) == 0
    said = capsys.readouterr().out
    assert "!  archiving" in said
    assert "no point-in-time recovery (archive_mode is off)" in said
    assert "everything is in order" not in said
    assert "nothing failed; to be known (!): archiving" in said
