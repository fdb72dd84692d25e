"""The restore drill: a backup restored into a scratch database and compared with its manifest. What it finds is the
backup's proof, beside the manifest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tasks.core.backup.archive import restore_archive
from tasks.core.backup.contents import check_sequences, count_rows, dumped_tables, sample_rows, server_facts
from tasks.core.backup.library import write_proof
from tasks.core.backup.manifest import Backup, Manifest, Proof, ServerFacts
from tasks.core.errors import DatabaseError, DrillFailed, IntegrityError, OpsError, SettingsError, StoreError
from tasks.core.postgres.connections import Connection, Server, connect
from tasks.core.postgres.scratch import Scratch, scratch_database
from tasks.core.progress import track
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tasks.core.store.base import open_store

_SAMPLES_OF_ALL = 3  # since this version of the manifest
_ROOM = "free some there, or let KG_HOME or KG_SCRATCH_URL name another place, and drill again"
_AGAIN = "look at its log and drill again"
_OF_THIS_MACHINE = {
    "no space left on device": _ROOM,
    "disk quota exceeded": _ROOM,
    "out of memory": "free some there, and drill again",
    "server closed the connection": _AGAIN,
    "terminating connection": _AGAIN,
    "connection refused": _AGAIN,
    "not accepting connections": _AGAIN,
    "in recovery mode": _AGAIN,
}


@dataclass
class _Findings:
    """Filled as the drill goes, so that a failed one says how far it came."""

    server: ServerFacts | None = None
    tables: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = round(time.monotonic() - started, 3)


def drill(settings: Settings, backup: Backup, afterwards: Callable[[Scratch, Proof], None] | None = None) -> Proof:
    """Restore, compare, and write the proof; the scratch database is gone afterwards in every case.

    `afterwards` may do what it likes with the proved copy: what it raises goes on, and takes nothing from the proof.

    Raises DrillFailed, with a proof that says so, for a backup that does not restore to what its manifest says. Raises
    what it is, and writes no proof, where there was no scratch database to be had, or the store could not be read:
    that says nothing about the backup.
    """
    manifest, found = backup.manifest, _Findings()
    started = time.monotonic()
    with scratch_database(settings, like=_original(manifest)) as scratch:
        found.seconds["scratch"] = round(time.monotonic() - started, 3)
        try:
            _restore_and_compare(settings, backup, scratch, found)
        except (StoreError, SettingsError):
            raise
        except OpsError as error:
            _raise_if_of_this_machine(error, backup)
            _prove(settings, backup, found, difference=error.message)
            message = error.message if isinstance(error, DrillFailed) else f"it does not restore: {error.message}"
            raise DrillFailed(f"backup {backup.id} is not proved: {message}", hint=error.hint) from error
        proof = _prove(settings, backup, found)
        if afterwards:
            afterwards(scratch, proof)
    return proof


def _raise_if_of_this_machine(error: OpsError, backup: Backup) -> None:
    """A full disk, or a scratch server that died, is no verdict: an earlier proof must not be replaced for it."""
    if isinstance(error, DrillFailed | IntegrityError):
        return
    for words, hint in _OF_THIS_MACHINE.items():
        if words in error.message.lower():
            raise DatabaseError(
                f"backup {backup.id} was neither proved nor found wanting, the scratch server failed: {error.message}",
                hint=hint,
            ) from error


def _original(manifest: Manifest) -> Server:
    """The server that the backup was made on, as far as the scratch database should be like it."""
    facts = manifest.server
    return Server(
        version=facts.version,
        version_num=facts.major * 10_000,
        major=facts.major,
        encoding=facts.encoding,
        collation=facts.collation,
        system_identifier=manifest.database.system_identifier,
        database=manifest.database.name,
        role="",
        superuser=False,
    )


def _restore_and_compare(settings: Settings, backup: Backup, scratch: Scratch, found: _Findings) -> None:
    found.seconds.update(restore_archive(settings, backup, scratch))
    with connect(scratch.address, purpose="restore drill") as copy, found.timed("compare"):
        found.server = server_facts(copy)
        _compare(backup.manifest, copy, found)
    if backup.manifest.revision and _has_ledger(scratch):
        with track("drill-verify", "Verify the restored copy"), found.timed("verify"):
            _verify(settings, scratch)


def _compare(manifest: Manifest, copy: Connection, found: _Findings) -> None:
    """Raises DrillFailed with the first difference between the manifest and the restored copy."""
    tables = dumped_tables(copy, None if manifest.scope == "database" else manifest.scope)
    found.tables = count_rows(copy, tables)
    _same("rows in", manifest.tables, found.tables)
    _compare_samples(manifest, sample_rows(copy, tables))
    check_sequences(copy, tables)
    found.fingerprint = fingerprint(read_catalog(copy, manifest.our_schema, manifest.our_tables))
    if found.fingerprint != manifest.fingerprint:
        raise DrillFailed(
            f"the restored tables have fingerprint {found.fingerprint[:18]}, "
            f"the manifest says {manifest.fingerprint[:18]}"
        )


def _compare_samples(manifest: Manifest, found: Mapping[str, str]) -> None:
    """Raises DrillFailed with the first difference. Of older manifests only what they have is compared."""
    if manifest.version < _SAMPLES_OF_ALL:
        found = {label: value for label, value in found.items() if label in manifest.samples}
    _same("sampled content of", manifest.samples, found)


def _same(what: str, wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise DrillFailed(
                f"{what} {name}: {found.get(name, 'not there')} in the restored copy, "
                f"{wanted.get(name, 'not there')} in the manifest"
            )


def _has_ledger(scratch: Scratch) -> bool:
    with connect(scratch.address, purpose="restore drill") as copy:
        return ledger.exists(copy)


def _verify(settings: Settings, scratch: Scratch) -> None:
    """Raises DrillFailed with the first check that failed on the copy."""
    report = verify(settings.model_copy(update={"address": scratch.address}))
    failed = [check for check in report.checks if check.status == "failed"]
    if failed:
        raise DrillFailed(f"verify fails on the restored copy: {failed[0].name}: {failed[0].detail}")


def _prove(settings: Settings, backup: Backup, found: _Findings, *, difference: str = "") -> Proof:
    proof = Proof(
        backup=backup.id,
        manifest=backup.manifest.checksum,
        ok=not difference,
        created=datetime.now(UTC),
        grade="restorable" if _same_versions(backup.manifest.server, found.server) else "readable",
        server=found.server,
        tables=found.tables,
        fingerprint=found.fingerprint,
        seconds=found.seconds,
        unsampled=backup.manifest.unsampled,
        difference=difference,
    )
    written = write_proof(open_store(settings), backup, proof).proof
    assert written
    return written


def _same_versions(original: ServerFacts, restored: ServerFacts | None) -> bool:
    """A backup without pgvector needs none."""
    if restored is None or restored.major != original.major:
        return False
    return original.pgvector in ("", restored.pgvector)
