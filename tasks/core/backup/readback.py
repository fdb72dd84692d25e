"""Reading a backup back: every byte of it, and what pg_restore finds in it, against its manifest."""

from __future__ import annotations

from pydantic import SecretStr

from tasks.core.backup.library import find, read_library
from tasks.core.backup.manifest import Backup
from tasks.core.backup.reading import check_stored, plain_chunks
from tasks.core.backup.toc import Contents, toc_reader
from tasks.core.errors import CommandFailed, IntegrityError, ObjectMissing
from tasks.core.postgres.tools import Tools, tools_for
from tasks.core.progress import track
from tasks.core.schema.report import CheckResult, Report, failed, ok
from tasks.core.settings import Settings
from tasks.core.store.base import Store, open_store


def read_back(store: Store, backup: Backup, tools: Tools, identity: SecretStr | None = None) -> Contents | None:
    """The archive's table of contents, when everything is as the manifest says; None where it is encrypted and
    `identity` is not given: then only the stored bytes are compared.

    Raises IntegrityError that names what differs: the manifest in the store, the stored bytes, the zstd frame, the
    plain bytes, the table of contents.
    """
    manifest = find(store, backup.manifest.environment, backup.id).manifest
    if manifest.checksum != backup.manifest.checksum:
        raise IntegrityError(f"the manifest of backup {backup.id} in {store.url} is not the one that was written")
    if manifest.dump.age and identity is None:
        check_stored(store, backup)
        return None
    total = manifest.dump.plain_bytes
    with track("read-back", f"Read {backup.id} back", total=total, unit="bytes") as progress:
        try:
            with toc_reader(tools) as toc:
                for chunk in plain_chunks(store, backup, identity):
                    toc.feed(chunk)
                    progress.advance(len(chunk))
                found = toc.contents()
        except CommandFailed as error:
            raise IntegrityError(f"{backup.dump_key} is no archive that can be read: {error.message}") from error
        check_contents(backup, found)
        progress.say(f"{total / 2**20:,.1f} MiB unchanged, {found.toc.entries} entries")
    return found


def verify_backups(settings: Settings, wanted: str | None = None) -> Report:
    """Read one backup back, or (None) all of the environment: a check for each, and for what only claims to be one.

    Damage is a failed check. Raises StoreError where the store cannot be read: that says nothing about a backup.
    """
    store, environment = open_store(settings), settings.environment
    if wanted is not None:
        return Report((_verified(settings, store, wanted),))
    library = read_library(store, environment)
    checks = [_verified(settings, store, backup.id) for backup in library.backups]
    return Report((*checks, *(failed(problem.name, problem.reason) for problem in library.problems)))


def _verified(settings: Settings, store: Store, wanted: str) -> CheckResult:
    try:
        backup = find(store, settings.environment, wanted)
        tool = backup.manifest.tool
        found = read_back(store, backup, tools_for(tool.pg_dump_major, settings.home), settings.store_identity)
    except (IntegrityError, ObjectMissing) as error:
        return failed(wanted, error.message)
    dump = backup.manifest.dump
    inside = (
        f"{found.toc.entries} entries: unchanged"
        if found
        else ("the stored bytes are unchanged; encrypted, so its contents need KG_STORE_IDENTITY")
    )
    sizes = f"{dump.stored_bytes / 2**20:,.1f} MiB stored, {dump.plain_bytes / 2**20:,.1f} MiB unpacked"
    return ok(wanted, f"{sizes}, {inside}")


def check_contents(backup: Backup, found: Contents) -> None:
    """Raises IntegrityError unless the archive's table of contents is the manifest's."""
    wanted = backup.manifest.toc
    if found.toc != wanted:
        raise IntegrityError(
            f"the table of contents of {backup.dump_key} is not the manifest's: "
            f"{found.toc.entries} entries, {found.toc.sha256[:16]}…; expected {wanted.entries}, {wanted.sha256[:16]}…"
        )
