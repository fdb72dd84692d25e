"""The disk fills up, under the store or while a drill restores: one clear error, no verdict, and nothing stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find
from tasks.core.errors import DatabaseError, StoreError
from tasks.core.postgres import places
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings
from tasks.core.store.base import open_store
from tests.integration.graphs import deploy_graph


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system that an empty cluster fits in, and not much more; clusters of ours lie there."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = Path("/tmp") / f"kg-small-{os.getpid()}"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=72m,mode=755", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk_ends_the_drill_and_leaves_nothing(
    settings: Settings, conn: Connection, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy_graph(conn, settings, rows=20)
    conn.execute("CREATE TABLE wide AS SELECT repeat(md5(n::text), 30) AS t FROM generate_series(1, 60000) AS n")
    backup = back_up(settings)
    proof = drill(settings, backup)
    assert proof.ok
    monkeypatch.setattr(places, "ROOT_FOLDER", small_disk)
    with pytest.raises(DatabaseError, match=r"neither proved nor found wanting.*No space left on device") as caught:
        drill(settings.model_copy(update={"home": small_disk / "home"}), backup)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert list(small_disk.rglob("data")) == []
    assert find(open_store(settings), "dev", backup.id).proof == proof, "an earlier proof holds"


def test_a_full_store_ends_the_backup_and_leaves_nothing(
    settings: Settings, conn: Connection, small_disk: Path
) -> None:
    deploy_graph(conn, settings, rows=20)
    conn.execute(
        "CREATE TABLE wide AS SELECT string_agg(md5(n::text || k::text), '') AS t"
        " FROM generate_series(1, 60000) AS n, generate_series(1, 120) AS k GROUP BY n"
    )
    full = settings.model_copy(update={"store_url": (small_disk / "store").as_uri()})
    with pytest.raises(StoreError, match="No space left on device") as caught:
        back_up(full)
    assert "\n" not in str(caught.value)
    assert "the disk is full: prune backups" in (caught.value.hint or "")
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    assert back_up(settings).manifest.tables["public.wide"] == 60_000
