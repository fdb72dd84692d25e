"""Prune against a real ledger and a real store: what it deletes, in which order, and what bars it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.backup.contents import identity_of
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import backups
from tasks.core.backup.manifest import DUMP, MANIFEST, PROOF, Backup, Identity, new_id
from tasks.core.backup.readback import verify_backups
from tasks.core.backup.retention import prune
from tasks.core.errors import StoreError
from tasks.core.operations.operation import operation
from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.settings import Settings
from tasks.core.store.base import open_store
from tasks.core.store.files import FileStore

pytestmark = pytest.mark.slow


@pytest.fixture
def newest(settings: Settings, conn: Connection) -> Backup:
    """A proved backup of now, of a database that has an identity."""
    ledger.identity(conn)
    backup = back_up(settings)
    return backup.model_copy(update={"proof": drill(settings, backup)})


def earlier(settings: Settings, backup: Backup, days: float, *, database: Identity | None = None) -> Backup:
    """A copy of the proved backup, as if made so many days before."""
    store, created = open_store(settings), backup.created - timedelta(days=days)
    values = {"id": new_id(created), "created": created, "database": database or backup.manifest.database}
    manifest = backup.manifest.model_copy(update=values).sealed()
    assert backup.proof
    proof = backup.proof.model_copy(update={"backup": manifest.id, "manifest": manifest.checksum}).sealed()
    copy = Backup(manifest=manifest, proof=proof)
    for found in manifest.objects:
        with store.open(backup.key(found.name)) as reader:
            store.put(copy.key(found.name), [reader.read()])
    store.put(copy.key(PROOF), [proof.to_json()])
    store.put(copy.key(MANIFEST), [manifest.to_json()])
    return copy


def test_a_dry_run_deletes_nothing_and_apply_does(settings: Settings, newest: Backup) -> None:
    old, young = earlier(settings, newest, 8), earlier(settings, newest, 3)
    planned = prune(settings, apply=False)
    assert [decision.id for decision in planned.delete] == [old.id]
    assert len(backups(open_store(settings), "dev")) == 3
    assert prune(settings, apply=True) == planned
    assert [backup.id for backup in backups(open_store(settings), "dev")] == [young.id, newest.id]
    assert [entry.key for entry in open_store(settings).list(f"dev/{old.id}/")] == []
    assert prune(settings, apply=True).delete == ()


def test_a_clones_backups_are_never_touched(settings: Settings, newest: Backup, conn: Connection) -> None:
    """A clone has the same uuid: it is another cluster, or another name in this one."""
    identity = identity_of(conn)
    theirs = [
        earlier(settings, newest, 30, database=identity.model_copy(update={"system_identifier": "1"})),
        earlier(settings, newest, 30, database=identity.model_copy(update={"name": "copy"})),
        earlier(settings, newest, 30, database=identity.model_copy(update={"uuid": str(uuid4())})),
    ]
    decided = prune(settings, apply=True)
    assert decided.delete == ()
    reasons = dict(decided.keep)
    assert all(reasons[backup.id].startswith("of another database") for backup in theirs)


def test_what_an_operation_refers_to_stays(settings: Settings, newest: Backup, conn: Connection) -> None:
    journalled, described, dead = (earlier(settings, newest, days) for days in (20, 21, 22))
    with operation(settings, "deploy") as held:
        with held.step("backup") as outcome:
            outcome["backup"] = journalled.id
        held.describe(backup=described.id)
        conn.execute(
            "INSERT INTO kg_ops.operation"
            " (id, kind, environment, fence, started_at, state, host, pid, backend_pid, detail)"
            " VALUES (%s, 'rollback', 'dev', 0, now() - interval '1 hour', 'abandoned', 'h', 1, 1,"
            " jsonb_build_object('backup', %s::text))",
            (uuid4(), dead.id),
        )
        reasons = dict(prune(settings, apply=True).keep)
    assert reasons[journalled.id] == reasons[described.id] == "an unfinished deploy refers to it"
    assert reasons[dead.id] == "an unfinished rollback refers to it"
    assert {decision.id for decision in prune(settings, apply=True).delete} == {journalled.id, described.id, dead.id}


def test_a_prune_that_breaks_off_leaves_no_half_backup(
    settings: Settings, newest: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = earlier(settings, newest, 30)
    delete = FileStore.delete

    def only_manifests(self: FileStore, key: str) -> None:
        if key.endswith(DUMP):
            raise StoreError("the store went away")
        delete(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "delete", only_manifests)
        with pytest.raises(StoreError, match="went away"):
            prune(settings, apply=True)
    assert [backup.id for backup in backups(open_store(settings), "dev")] == [newest.id]
    assert [entry.key for entry in open_store(settings).list(f"dev/{old.id}/")] == [
        old.key(found.name) for found in old.manifest.objects
    ]


def aside(conn: Connection, age: timedelta) -> str:
    """A schema of replaced tables, of that age."""
    schema = f"kg_replaced_{datetime.now(UTC) - age:%Y%m%dT%H%M%SZ}"
    conn.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
    conn.execute(SQL("CREATE TABLE {} AS SELECT 1 AS id").format(Identifier(schema, "code_patterns")))
    return schema


def test_replaced_tables_go_by_their_own_age_and_only_after_a_newer_proof(
    settings: Settings, newest: Backup, conn: Connection
) -> None:
    old, young = aside(conn, timedelta(days=9)), aside(conn, timedelta(days=2))
    conn.execute("CREATE SCHEMA kg_replaced_by_somebody")
    planned = prune(settings, apply=False)
    assert [decision.id for decision in planned.replaced] == [old]
    assert dict(planned.keep)[young] == "replaced tables, not older than 7 days"
    assert planned.stored_bytes[old] > 0
    conn.execute(SQL("CREATE VIEW hanging AS SELECT * FROM {}").format(Identifier(old, "code_patterns")))
    assert "others hang on: view hanging" in dict(prune(settings, apply=True).keep)[old]
    conn.execute("DROP VIEW hanging")
    store = open_store(settings)
    assert newest.proof
    store.delete(newest.key(PROOF))
    assert prune(settings, apply=True).replaced == ()
    store.put(newest.key(PROOF), [newest.proof.to_json()])
    asked: list[Connection] = []
    prune(settings, apply=True, guard=asked.append)
    assert len(asked) == 1, "the operation's fence is asked before the commit"
    left = conn.execute("SELECT nspname::text FROM pg_namespace WHERE nspname ~ '^kg_replaced_'").fetchall()
    assert set(left) == {(young,), ("kg_replaced_by_somebody",)}


def test_what_is_not_understood_is_named_and_left_alone(settings: Settings, newest: Backup) -> None:
    old = earlier(settings, newest, 30)
    folder = Path(settings.store_url.removeprefix("file://"))
    (folder / old.key(MANIFEST)).write_text("{}")
    (folder / "dev" / "someone.txt").write_text("hello")
    decided = prune(settings, apply=True)
    assert {problem.id for problem in decided.problems} == {old.id, "someone.txt"}
    assert decided.delete == decided.sweep == ()
    assert (folder / old.key(DUMP)).exists()
    assert (folder / "dev" / "someone.txt").exists()


def test_the_ledgers_revision_and_the_one_before_the_deploy_stay(
    settings: Settings, newest: Backup, conn: Connection
) -> None:
    before, at_first = earlier(settings, newest, 40), earlier(settings, newest, 50)
    conn.execute(
        "INSERT INTO kg_ops.ledger (revision, name, checksum, kind, backup, applied_at)"
        " VALUES ('001', 'one', 'c', 'applied', %s, %s)",
        (at_first.id, datetime.now(UTC) - timedelta(days=39)),
    )
    reasons = dict(prune(settings, apply=True).keep)
    assert reasons[at_first.id] == "the one before the newest deploy"
    assert reasons[before.id] == "the newest proved before the newest deploy"


def test_two_prunes_at_once_delete_what_one_would(settings: Settings, newest: Backup) -> None:
    old, young = earlier(settings, newest, 8), earlier(settings, newest, 3)
    with ThreadPoolExecutor(2) as pool:
        decided = [pool.submit(prune, settings, apply=True) for _ in range(2)]
        deleted = {each.id for found in decided for each in found.result().delete}
    assert deleted == {old.id}
    assert [backup.id for backup in backups(open_store(settings), "dev")] == [young.id, newest.id]
    assert [entry.key for entry in open_store(settings).list("") if old.id in entry.key] == []


def test_a_backup_goes_on_while_others_are_pruned(settings: Settings, newest: Backup) -> None:
    """What it has stored so far has no manifest yet: it looks like what a killed run has left, but is young."""
    earlier(settings, newest, 8)
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(back_up, settings)
        while not making.done():
            prune(settings, apply=True)
    made = making.result()
    assert verify_backups(settings, made.id).ok
    assert [backup.id for backup in backups(open_store(settings), "dev")] == [newest.id, made.id]
