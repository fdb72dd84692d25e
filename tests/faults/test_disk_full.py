"""The disk fills up while a drill restores: one clear error, no verdict, and nothing of the scratch cluster stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find
from tasks.core.errors import DatabaseError
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
