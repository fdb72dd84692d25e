"""`kg backups --verify` reads archives back and names what is wrong with them; `--keep` marks one for good."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli.app import run
from tasks import backups as backup_tasks
from tasks.core.addresses import Address
from tasks.core.backup import dump as backup_module
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import find, mark
from tasks.core.backup.manifest import DUMP, KEEP, MANIFEST, Backup
from tasks.core.backup.readback import verify_backups
from tasks.core.backup.retention import prune
from tasks.core.errors import BackupError, IntegrityError
from tasks.core.operations.operation import operation
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings
from tasks.core.store.base import open_store
from tests.integration.graphs import deploy_graph
from tests.integration.test_prune import earlier


@pytest.fixture
def pair(settings: Settings, conn: Connection) -> tuple[Backup, Backup]:
    """Two backups of different rows."""
    deploy_graph(conn, settings, rows=50)
    first = back_up(settings)
    conn.execute("UPDATE code_embeddings SET language = 'perl'")
    return first, back_up(settings)


def path_of(settings: Settings, backup: Backup, name: str) -> Path:
    return Path(settings.store_url.removeprefix("file://"), backup.key(name))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def forge(path: Path) -> None:
    """One field of a manifest, as a careless or malicious hand would: its checksum is left as it was."""
    document = json.loads(path.read_bytes())
    document["tables"]["public.code_embeddings"] = 1
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        (DUMP, flip, "was changed|does not unpack"),
        (DUMP, lambda path: path.write_bytes(path.read_bytes()[:-9]), r"its database\.dump\.zst has \d+ bytes"),
        (MANIFEST, flip, "was changed|cannot be read"),
        (MANIFEST, forge, "was changed after it was written"),
    ],
    ids=["flipped-bit", "truncated", "flipped-manifest", "forged-field"],
)
def test_damage_is_named_and_the_other_is_whole(
    settings: Settings, pair: tuple[Backup, Backup], name: str, harm: Callable[[Path], Any], said: str
) -> None:
    assert verify_backups(settings).ok
    harm(path_of(settings, pair[0], name))
    found = {check.name: check for check in verify_backups(settings).checks}
    assert found[pair[1].id].status == "ok"
    assert found[pair[0].id].status == "failed"
    report = verify_backups(settings, pair[0].id)
    assert not report.ok
    assert re.search(said, report.checks[0].detail)


def test_a_swapped_archive_is_named(settings: Settings, pair: tuple[Backup, Backup]) -> None:
    first, second = (path_of(settings, backup, DUMP) for backup in pair)
    here, there = first.read_bytes(), second.read_bytes()
    first.write_bytes(there)
    second.write_bytes(here)
    report = verify_backups(settings)
    assert [check.status for check in report.checks] == ["failed", "failed"]
    assert all(DUMP in check.detail for check in report.checks)


def test_a_kept_backup_is_never_pruned(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings, rows=5)
    newest = back_up(settings)
    newest = newest.model_copy(update={"proof": drill(settings, newest)})
    old = earlier(settings, newest, 30)
    earlier(settings, newest, 20)  # the newest before the deploy stays anyhow
    store = open_store(settings)
    mark(store, find(store, "dev", old.id), keep=True)
    assert dict(prune(settings, apply=True).keep)[old.id] == "marked to be kept"
    assert find(store, "dev", old.id).kept
    mark(store, find(store, "dev", old.id), keep=False)
    assert not store.exists(old.key(KEEP))
    assert [decision.id for decision in prune(settings, apply=True).delete] == [old.id]
    with pytest.raises(BackupError, match="there is no backup"):
        find(store, "dev", old.id)


def test_the_verb_verifies_marks_and_lists(
    settings: Settings,
    pair: tuple[Backup, Backup],
    database: Address,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert database.password
    monkeypatch.setenv(
        "SUPABASE_URL", f"postgresql://{database.user}@{database.host}:{database.port}/{database.dbname}"
    )
    monkeypatch.setenv("SUPABASE_DB_PASSWORD", database.password.get_secret_value())
    monkeypatch.setenv("KG_STORE_URL", settings.store_url)
    monkeypatch.setenv("KG_HOME", str(settings.home))
    wanted = pair[0].id

    def said(*words: str) -> tuple[int, Any]:
        status = run(["backups", "dev", *words, "--json"])
        return status, json.loads(capsys.readouterr().out)

    status, report = said("--verify")
    assert (status, report["ok"], len(report["checks"])) == (0, True, 2)
    assert said("--verify", wanted)[1]["checks"][0]["name"] == wanted
    assert said("--keep", wanted)[1][0]["kept"] is True
    assert [each["kept"] for each in said()[1]] == [True, False]
    assert said("--unkeep", wanted)[1][0]["kept"] is False
    assert said(wanted)[0] == 2, "an id alone means nothing"
    assert said("--verify", "--keep", wanted)[0] == 2
    for mark_ in ("--keep", "--unkeep"):
        status, refused = said(mark_, "")
        assert (status, "is not the id of a backup" in refused["error"]["message"]) == (2, True)
    flip(path_of(settings, pair[0], DUMP))
    status, report = said("--verify", wanted)
    assert (status, report["ok"]) == (1, False)


def test_the_backup_task_reads_back_what_it_made(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that damages what it was given ends the task, and not the drill of some later night."""
    deploy_graph(conn, settings, rows=50)
    made = backup_module.back_up

    def damaged(*values: Any, **options: Any) -> Backup:
        backup = made(*values, **options)
        flip(path_of(settings, backup, DUMP))
        return backup

    monkeypatch.setattr(backup_module, "back_up", damaged)
    monkeypatch.setattr(backup_tasks, "load_settings", lambda _: settings)
    with pytest.raises(IntegrityError, match=r"was changed|does not unpack"), operation(settings, "backup"):
        backup_tasks.make_backup.fn("dev")


def test_a_stray_fails_no_backup_and_a_missing_one_does(settings: Settings, pair: tuple[Backup, Backup]) -> None:
    """What claims to be no backup is a note; what was one and has lost its manifest, too; none at all is a failure."""
    folder = path_of(settings, pair[0], MANIFEST).parent
    (folder.parent / "someone.txt").write_text("hello")
    (folder / "README.txt").write_text("in a backup's own folder")
    report = verify_backups(settings)
    assert report.ok
    found = {check.name: check for check in report.checks}
    assert [found[each.id].status for each in pair] == ["ok", "ok"]
    for name in ("someone.txt", f"{pair[0].id}/README.txt"):
        assert (found[name].status, "not part of a backup" in found[name].detail) == ("note", True)
    for each in pair:
        path_of(settings, each, MANIFEST).unlink()
    report = verify_backups(settings)
    assert not report.ok
    found = {check.name: check for check in report.checks}
    assert (found[pair[0].id].status, "no manifest" in found[pair[0].id].detail) == ("note", True)
    assert (found["backups"].status, found["backups"].remedy) == ("failed", "kg backup dev")
