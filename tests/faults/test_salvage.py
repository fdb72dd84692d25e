"""Rows written since the backup, carried over a restore: those that fit are live again, all are in the store."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.errors import RollbackFailed
from tasks.core.operations.rollback import Request
from tasks.core.postgres.connections import Connection
from tasks.core.settings import CHECKOUT, Settings
from tasks.core.store.base import open_store
from tests.faults.runs import deploy, rollback
from tests.integration.graphs import with_section

INSERT = "INSERT INTO code_embeddings (file_path, file_hash, language) VALUES (%s, %s, 'python')"


@pytest.fixture
def saved(settings: Settings, conn: Connection, tmp_path: Path) -> tuple[Settings, str]:
    """Three files at revision 001, a proved backup of them, and then writes: one row each new, changed and gone."""
    folder = Path(shutil.copytree(CHECKOUT / "sql" / "migrations", tmp_path / "migrations"))
    own = settings.model_copy(
        update={"migrations": folder, "scratch": settings.address and settings.address.database("postgres")}
    )
    deploy(own, drilled=False)
    for name in ("kept", "changed", "gone"):
        conn.execute(INSERT, (name, "1"))
    backup = back_up(with_section(own, "backup", binary_from_mb=0))  # rows that come back from beside the archive
    assert backup.manifest.streams
    drill(own, backup)
    conn.execute(INSERT, ("new", "1"))
    conn.execute("UPDATE code_embeddings SET language = 'sql' WHERE file_path = 'changed'")
    conn.execute("DELETE FROM code_embeddings WHERE file_path = 'gone'")
    return own, backup.id


def content(conn: Connection) -> list[tuple[object, ...]]:
    return conn.execute("SELECT * FROM public.code_embeddings ORDER BY id").fetchall()


def exported(settings: Settings) -> dict[str, list[dict[str, str]]]:
    store, found = open_store(settings), {}
    for entry in list(store.list("salvage/")):
        with store.open(entry.key) as reader:
            found[entry.key.rpartition("/")[2]] = list(csv.DictReader(io.StringIO(reader.read().decode())))
    return found


def test_what_was_written_since_is_there_again(saved: tuple[Settings, str], conn: Connection) -> None:
    settings, backup = saved
    before = content(conn)
    done = rollback(settings, Request("restore", backup, salvage=True))
    assert content(conn) == before  # updated_at too
    assert "3 rows written since were applied again" in done.detail
    [(name, rows)] = exported(settings).items()
    assert name == "code_embeddings.csv"
    assert sorted((row["kg_change"], row["file_path"]) for row in rows) == [
        ("deleted", ""),
        ("inserted", "new"),
        ("updated", "changed"),
    ]
    conn.execute(INSERT, ("after", "1"))  # the sequence goes on behind the salvaged rows


def test_without_it_they_would_be_lost(saved: tuple[Settings, str], conn: Connection) -> None:
    settings, backup = saved
    before = content(conn)
    with pytest.raises(RollbackFailed, match="1 inserted, 1 deleted, 1 updated") as refused:
        rollback(settings, Request("restore", backup))
    assert "--salvage" in (refused.value.hint or "")
    assert content(conn) == before


def test_what_does_not_fit_is_named_and_wants_yes(saved: tuple[Settings, str], conn: Connection) -> None:
    settings, backup = saved
    up = "ALTER TABLE code_embeddings DROP CONSTRAINT code_embeddings_file_path_file_hash_key;"
    (settings.migrations / "002_allow_twins.up.sql").write_text(up)
    (settings.migrations / "002_allow_twins.down.sql").write_text("SELECT 1;")
    deploy(settings, drilled=False)
    conn.execute(INSERT, ("kept", "1"))  # a twin, which the restored constraint refuses
    before = content(conn)
    with pytest.raises(RollbackFailed, match=r"code_embeddings: 1 rows \(duplicate key"):
        rollback(settings, Request("restore", backup, salvage=True))
    assert content(conn) == before
    assert exported(settings) == {}
    done = rollback(settings, Request("restore", backup, salvage=True, yes=True))
    assert content(conn) == before[:-1]
    assert "3 rows written since were applied again" in done.detail
    assert len(exported(settings)["code_embeddings.csv"]) == 4
