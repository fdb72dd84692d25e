"""Manifests, proofs and the library: only what is whole, unchanged and in its own place is a backup."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.core.backup.library import backups, find, read_library, write_proof
from tasks.core.backup.manifest import (
    DUMP,
    MANIFEST,
    PROOF,
    Backup,
    Identity,
    Manifest,
    Proof,
    ServerFacts,
    StoredObject,
    Toc,
    ToolFacts,
    is_id,
    new_id,
)
from tasks.core.errors import BackupError, IntegrityError, OpsError, UsageError
from tasks.core.store.files import FileStore

NOW = datetime(2026, 5, 1, 2, 0, tzinfo=UTC)
OURS = Identity(uuid="9f0c", system_identifier="7001", name="kg")


def manifest(created: datetime = NOW, **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "id": new_id(created),
        "environment": "dev",
        "created": created,
        "revision": "001",
        "scope": "database",
        "database": OURS,
        "server": ServerFacts(version="18.6", major=18, encoding="UTF8", collation="C"),
        "tool": ToolFacts(pg_dump="18.6", pg_dump_major=18, zstd_level=1),
        "tables": {"public.code_embeddings": 3},
        "samples": {"public.code_embeddings": "ab"},
        "sequences": (),
        "our_schema": "public",
        "our_tables": ("code_embeddings",),
        "fingerprint": "1:00",
        "roles": ("kg", "naïve ☃"),
        "extensions": {},
        "objects": (StoredObject(name=DUMP, plain_bytes=9, plain_sha256="p", stored_bytes=4, stored_sha256="s"),),
        "toc": Toc(entries=1, sha256="t"),
        "snapshot_held_seconds": 0.1,
    }
    return Manifest(**(values | changes)).sealed()


def proof_of(found: Manifest, *, ok: bool = True, **changes: Any) -> Proof:
    values = {"backup": found.id, "manifest": found.checksum, "ok": ok, "created": found.created, "grade": "restorable"}
    return Proof(**(values | changes)).sealed()


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


def put(store: FileStore, found: Manifest, *, proof: Proof | None = None, folder: str | None = None) -> Backup:
    folder = folder or found.folder
    store.put(f"{folder}/{DUMP}", [b"dump"])
    store.put(f"{folder}/{MANIFEST}", [found.to_json()])
    backup = Backup(manifest=found)
    return write_proof(store, backup, proof) if proof else backup


def test_a_manifest_survives_its_json() -> None:
    found = manifest(tables={'public."Odd ""Name"""': 5, "public.ünï": 0})
    assert Manifest.from_json(found.to_json(), "m") == found


def test_times_are_utc() -> None:
    found = manifest(created=datetime.fromisoformat("2026-05-01T04:00:00+02:00"))
    assert found.created == NOW
    assert found.created.tzinfo == UTC
    assert found.id.startswith("20260501T020000Z-")
    with pytest.raises(ValidationError, match="without a zone"):
        manifest(created=datetime(2026, 5, 1))


@pytest.mark.parametrize(
    "field", [name for name in json.loads(manifest().to_json()) if name not in ("schema", "checksum")]
)
def test_every_forged_field_is_found(field: str) -> None:
    forged = json.loads(manifest().to_json())
    value = forged[field]
    other = manifest(
        created=NOW - timedelta(days=1),
        environment="staging",
        revision="002",
        operation="x",
        scope=("public",),
        database=Identity(name="other"),
        server=ServerFacts(version="17.1", major=17, encoding="UTF8", collation="C"),
        tool=ToolFacts(pg_dump="17.1", pg_dump_major=17, zstd_level=3),
        tables={"public.code_embeddings": 4},
        samples={},
        sequences=("s",),
        our_schema="other",
        our_tables=(),
        fingerprint="1:11",
        roles=(),
        extensions={"vector": {"version": "0.8", "schema_name": "public"}},
        objects=(),
        toc=Toc(entries=2, sha256="t"),
        snapshot_held_seconds=9,
        lsn="0/1",
    )
    forged[field] = json.loads(other.to_json())[field] if field != "format" else "other"
    assert forged[field] != value
    with pytest.raises(IntegrityError, match="dev/manifest"):
        Manifest.from_json(json.dumps(forged).encode(), "dev/manifest")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"schema": 2}', b"\xff\xfe"])
def test_what_is_no_manifest_is_named(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"x/manifest\.json cannot be read"):
        Manifest.from_json(content, "x/manifest.json")


def test_a_newer_manifest_is_not_guessed_at() -> None:
    document = json.loads(manifest().to_json()) | {"later_field": 1}
    with pytest.raises(IntegrityError, match="later_field"):
        Manifest.from_json(json.dumps(document).encode(), "m")


def test_ids() -> None:
    assert is_id(new_id(NOW))
    for text in ("../x", "20260501T020000Z-0123abc", "20260501T020000Z-0123ABCD", "20260501T020000Z-0123abcd/..", ""):
        assert not is_id(text)


def test_identity_needs_more_than_a_name() -> None:
    assert OURS.is_same(OURS)
    assert OURS.is_same(Identity(system_identifier="7001", name="kg"))
    assert OURS.is_same(Identity(uuid="9f0c", name="kg"))
    assert not OURS.is_same(Identity(name="kg"))
    assert not OURS.is_same(OURS.model_copy(update={"uuid": "0000"}))
    assert not OURS.is_same(OURS.model_copy(update={"system_identifier": "7002"})), "a clone carries the uuid"
    assert not OURS.is_same(OURS.model_copy(update={"name": "copy"})), "a copy in the cluster carries both"


def test_the_library_lists_newest_last(store: FileStore) -> None:
    later, earlier = put(store, manifest(NOW)), put(store, manifest(NOW - timedelta(days=1)))
    assert [backup.id for backup in backups(store, "dev")] == [earlier.id, later.id]
    assert backups(store, "staging") == ()


def test_a_proof_counts_for_its_own_manifest_only(store: FileStore) -> None:
    first, second = manifest(), manifest()
    assert put(store, first, proof=proof_of(first)).proved
    put(store, second)
    store.put(f"{second.folder}/{PROOF}", [proof_of(first).to_json()])
    library = read_library(store, "dev")
    assert {backup.id: backup.proved for backup in library.backups} == {first.id: True, second.id: False}
    assert [problem.name for problem in library.problems] == [f"{second.id}/{PROOF}"]


def test_a_forged_proof_does_not_count(store: FileStore) -> None:
    found = manifest()
    put(store, found)
    forged = proof_of(found, ok=False).to_json().replace(b'"ok": false', b'"ok": true')
    store.put(f"{found.folder}/{PROOF}", [forged])
    library = read_library(store, "dev")
    assert not library.backups[0].proved
    assert "was changed" in library.problems[0].reason


def test_what_is_no_backup_is_named_and_never_listed(store: FileStore, caplog: pytest.LogCaptureFixture) -> None:
    good = put(store, manifest())
    copied = put(store, manifest(), folder=f"dev/{new_id(NOW)}")
    foreign = put(store, manifest(environment="production"), folder=f"dev/{new_id(NOW)}")
    torn, short, bare = manifest(), manifest(), manifest()
    put(store, torn)
    store.put(f"{torn.folder}/{MANIFEST}", [torn.to_json()[:-20]])
    put(store, short)
    store.put(f"{short.folder}/{DUMP}", [b"du"])
    put(store, bare)
    store.delete(f"{bare.folder}/{DUMP}")
    store.put("dev/notes.txt", [b"hello"])
    store.put("dev/2026/manifest.json", [b"{}"])

    with caplog.at_level("INFO"):
        assert [backup.id for backup in backups(store, "dev")] == [good.id]
    reasons = {problem.name: problem.reason for problem in read_library(store, "dev").problems}
    assert "cannot be read" in reasons[torn.id]
    assert "has 2 bytes, the manifest says 4" in reasons[short.id]
    assert "is missing" in reasons[bare.id]
    assert f"that of dev/{copied.id}" in " ".join(reasons.values())
    assert f"that of production/{foreign.id}" in " ".join(reasons.values())
    assert {"notes.txt", "2026/manifest.json"} <= set(reasons)
    for name in reasons:
        assert name in caplog.text


def test_objects_without_a_manifest_are_left_over(store: FileStore) -> None:
    id_ = new_id(NOW)
    store.put(f"dev/{id_}/{DUMP}", [b"half"])
    library = read_library(store, "dev")
    assert library.backups == ()
    assert [leftover.id for leftover in library.leftovers] == [id_]


def test_find_takes_the_newest_proved(store: FileStore) -> None:
    old, new, newest = (manifest(NOW - timedelta(days=days)) for days in (2, 1, 0))
    put(store, old, proof=proof_of(old))
    put(store, new, proof=proof_of(new))
    put(store, newest, proof=proof_of(newest, ok=False))
    assert find(store, "dev").id == new.id
    assert find(store, "dev", proved=False).id == newest.id
    assert find(store, "dev", old.id).id == old.id


def test_find_keeps_to_the_database(store: FileStore) -> None:
    other = manifest(database=Identity(uuid="1", system_identifier="2", name="kg"))
    put(store, other, proof=proof_of(other))
    with pytest.raises(BackupError, match="no proved backup"):
        find(store, "dev", database=OURS)
    with pytest.raises(BackupError, match="of another database"):
        find(store, "dev", other.id, database=OURS)


def test_find_says_what_is_wrong(store: FileStore) -> None:
    with pytest.raises(BackupError, match="no proved backup") as caught:
        find(store, "dev")
    assert caught.value.hint == "kg backup dev"
    for trick in ("../../etc", "..", "", "/", "x/manifest.json", "%2e%2e"):
        with pytest.raises(UsageError, match="is not the id of a backup"):
            find(store, "dev", trick)
    with pytest.raises(BackupError, match="there is no backup"):
        find(store, "dev", new_id(NOW))
    torn = manifest()
    put(store, torn)
    store.put(f"{torn.folder}/{MANIFEST}", [b"{}"])
    with pytest.raises(IntegrityError, match="does not count"):
        find(store, "dev", torn.id)


def test_a_store_that_cannot_be_read_is_not_an_empty_one(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "dev").write_text("a file where the folder should be")
    with pytest.raises(OpsError):
        backups(store, "dev")
