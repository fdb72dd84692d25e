"""check, of backups: the store, where drills restore, and what is proved."""

from __future__ import annotations

import stat
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import write_proof
from tasks.core.backup.manifest import Backup, Proof
from tasks.core.postgres.binaries import wheel
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.scratch import private_cluster
from tasks.core.schema.check import ADVISORY, check
from tasks.core.schema.drill_checks import Needs, _elsewhere, _needs, _own
from tasks.core.settings import Environment, Settings
from tasks.core.store.base import open_store
from tests.integration.checking import failing, found, make_tables, role

__all__ = ["role"]  # fixtures


def test_a_store_that_cannot_be_written_fails(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    report = check(settings.model_copy(update={"store_url": (tmp_path / "file").as_uri()}))
    assert found(report, "store").startswith("failed: ")
    assert found(report, "proved backup") == "skipped: store failed"


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_backups_on_this_machine_s_disk_are_a_note(settings: Settings, environment: Environment) -> None:
    report = check(settings.model_copy(update={"environment": environment}))
    (store,) = [each for each in report.checks if each.name == "store"]
    assert store.status == "note"
    assert f"who loses the machine loses {environment}'s backups" in store.detail
    assert store.remedy.startswith("KG_STORE_URL=s3://")
    assert stat.S_IMODE((settings.home / "cache").stat().st_mode) == 0o700, "like its neighbours"


def test_what_a_backup_names_must_be_where_drills_restore(conn: Connection, settings: Settings, role: Address) -> None:
    """As if drills restored into this very server, which has all; then into clusters of our own, built without ICU."""
    conn.execute("CREATE TABLE plain (name text)")
    conn.execute(SQL("ALTER TABLE plain OWNER TO {}").format(Identifier(role.user)))
    assert found(check(settings), "scratch server").startswith("ok: one of our own, PostgreSQL ")
    there = check(settings.model_copy(update={"scratch": settings.address}))
    assert found(there, "scratch server").startswith("ok: KG_SCRATCH_URL (")
    weak = check(settings.model_copy(update={"scratch": role}))
    assert f'ALTER ROLE "{role.user}" CREATEDB' in found(weak, "scratch server")
    off = settings.deploy.model_copy(update={"drill": False})
    assert found(check(settings.model_copy(update={"deploy": off})), "scratch server").startswith("skipped")


def test_what_a_scratch_server_lacks_is_named(
    conn: Connection, settings: Settings, postgres: Address, role: Address, tmp_path: Path
) -> None:
    conn.execute('CREATE TABLE plain (name text COLLATE pg_catalog."C.utf8")')
    conn.execute(SQL("ALTER TABLE plain OWNER TO {}").format(Identifier(role.user)))
    needs = Needs(frozenset({role.user, "postgres"}), frozenset({"vector", "mystery"}), frozenset({("xx-x-icu", "i")}))
    assert _needs(conn).collations == {("C.utf8", "c")}
    assert role.user in _needs(conn).roles
    with private_cluster(tmp_path) as bare, connect(bare, purpose="test") as scratch:
        problems = _elsewhere(needs, scratch)
    assert any(f"no role {role.user}: CREATE ROLE" in each for each in problems)
    assert any("extension mystery, that server has not" in each for each in problems)
    assert any("no collation xx-x-icu" in each for each in problems)
    own = _own(
        Needs(frozenset(), frozenset({"vector", "mystery"}), frozenset({("xx_YY", "c"), ("C.utf8", "c")})), wheel()
    )
    assert [each.partition(",")[0].partition(" is ")[0] for each in own] == ["extension mystery", "collation xx_YY"]


def prove(settings: Settings, backup: Backup, created: datetime) -> None:
    proof = Proof(
        backup=backup.id, manifest=backup.manifest.checksum, ok=True, created=created, grade="restorable"
    )  # fmt: skip
    write_proof(open_store(settings), backup, proof)


def test_the_newest_proof_and_its_age(conn: Connection, settings: Settings) -> None:
    make_tables(conn, settings)
    backup = back_up(settings)
    assert found(check(settings), "proved backup") == "failed: none of 1 is proved (kg restore-drill dev)"
    prove(settings, backup, datetime.now(UTC) - timedelta(minutes=5))
    assert found(check(settings), "proved backup") == f"ok: {backup.id}, restorable, proved 5 min ago"
    prove(settings, backup, datetime.now(UTC) - timedelta(days=30))
    report = check(settings)
    assert found(report, "proved backup").endswith("proved 30 days ago, longer than 7 days (kg backup dev)")
    assert failing(report) <= ADVISORY, "a deploy makes a new one"


def test_another_database_s_backup_proves_nothing(conn: Connection, settings: Settings) -> None:
    make_tables(conn, settings)
    prove(settings, back_up(settings), datetime.now(UTC))
    conn.execute("UPDATE kg_ops.identity SET id = %s", [uuid.uuid4()])
    report = check(settings)
    name = conn.info.dbname
    assert found(report, "proved backup") == (
        f"failed: the store's only backup is of another database (there {name}, here {name}) (kg backup dev makes "
        "one of this; or is KG_STORE_URL, or the database's address, that of another environment?)"
    )
    assert failing(report) <= ADVISORY, "a deploy makes a new one"


def test_a_variable_of_another_name_is_noted(
    conn: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KG_STORE for KG_STORE_URL: backups go into a folder of this machine, and nobody notices."""
    monkeypatch.setenv("KG_STORE", "s3://bucket/kg")
    assert found(check(settings), "variables") == "note: nothing reads KG_STORE (or is it KG_STORE_URL?)"
    monkeypatch.delenv("KG_STORE")
    assert [each for each in check(settings).checks if each.name == "variables"] == []
