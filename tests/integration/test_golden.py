"""A backup of each format version that ever was, kept in tests/golden: read, proved and restored for ever."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tasks.core.backup.archive import restore_archive
from tasks.core.backup.drill import drill
from tasks.core.backup.library import find
from tasks.core.backup.readback import verify_backups
from tasks.core.postgres.connections import Connection, connect, describe
from tasks.core.postgres.scratch import scratch_database
from tasks.core.settings import CHECKOUT, Settings
from tasks.core.store.base import open_store
from tests.integration.test_streams import contents

GOLDEN = CHECKOUT / "tests" / "golden"
FORMATS = {"1": "portable", "2": "binary", "3": "binary"}


@pytest.mark.slow
@pytest.mark.parametrize("version", FORMATS)
def test_a_backup_of_every_version_is_read_and_restored_as_it_was(
    settings: Settings, conn: Connection, version: str, tmp_path: Path
) -> None:
    shutil.copytree(GOLDEN / version / "dev", tmp_path / "store" / "dev")
    wanted = json.loads((GOLDEN / version / "rows.json").read_text())
    backup = find(open_store(settings), "dev", proved=False)
    assert (backup.manifest.version, backup.manifest.format) == (int(version), FORMATS[version])
    assert verify_backups(settings).ok
    if describe(conn).major < backup.manifest.server.major:
        pytest.skip("made on a newer PostgreSQL")
    proof = drill(settings, backup)
    assert proof.ok
    assert proof.unsampled == backup.manifest.unsampled, "what was not compared is said"
    assert ("public.part_1" in proof.unsampled) == (version != "3"), "of a table without a key"
    with scratch_database(settings, like=describe(conn)) as scratch:
        restore_archive(settings, backup, scratch)
        with connect(scratch.address, purpose="test") as copy:
            found = contents(copy, wanted)
    hashes = {table: hashlib.sha256("\n".join(row[0] for row in rows).encode()) for table, rows in found.items()}
    assert {table: each.hexdigest() for table, each in hashes.items()} == wanted


def test_there_is_one_of_every_version() -> None:
    assert sorted(folder.name for folder in GOLDEN.iterdir()) == sorted(FORMATS)
