"""Reading a backup back: every byte of it, and what pg_restore finds in it, against its manifest."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import SecretStr

from tasks.core.backup.encryption import check_identity
from tasks.core.backup.library import Library, find, read_library
from tasks.core.backup.manifest import Backup, StoredObject
from tasks.core.backup.reading import check_stored, plain_chunks
from tasks.core.backup.toc import Contents, toc_reader
from tasks.core.errors import CommandFailed, IntegrityError, ObjectMissing, SettingsError
from tasks.core.postgres.tools import Tools, tools_for
from tasks.core.progress import Track, size, track
from tasks.core.schema.report import CheckResult, Report, failed, noted, ok
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
    with track("read-back", f"Read {backup.id} back", total=manifest.plain_bytes, unit="bytes") as progress:
        found = _archive(store, backup, tools, identity, progress)
        for wanted in manifest.objects:
            if wanted != manifest.dump:
                _read_object(store, backup, wanted, identity, progress)
        entries = f", {found.toc.entries} entries" if found else ", encrypted"
        progress.say(f"{size(manifest.plain_bytes)} unchanged{entries}")
    return found


def _archive(
    store: Store, backup: Backup, tools: Tools, identity: SecretStr | None, progress: Track
) -> Contents | None:
    if backup.manifest.dump.age and identity is None:
        progress.advance(check_stored(store, backup, backup.manifest.dump))
        return None
    try:
        with toc_reader(tools) as toc:
            for chunk in plain_chunks(store, backup, identity):
                toc.feed(chunk)
                progress.advance(len(chunk))
            found = toc.contents()
    except CommandFailed as error:
        raise IntegrityError(f"{backup.dump_key} is no archive that can be read: {error.message}") from error
    check_contents(backup, found)
    return found


def _read_object(
    store: Store, backup: Backup, wanted: StoredObject, identity: SecretStr | None, progress: Track
) -> None:
    if not wanted.packed or (wanted.age and identity is None):
        progress.advance(check_stored(store, backup, wanted))
        return
    for chunk in plain_chunks(store, backup, identity, wanted):
        progress.advance(len(chunk))


def verify_backups(settings: Settings, wanted: str | None = None) -> Report:
    """Read one backup back, or (None) all of the environment: a check for each, and for what only claims to be one.

    Damage is a failed check, and so is a store without any backup: who asks believes that there are some. What claims
    to be none is a note. Raises StoreError where the store cannot be read: that says nothing about a backup.
    """
    store, environment = open_store(settings), settings.environment
    check_identity(settings.store_identity)
    if wanted is not None:
        return Report((_verified(settings, store, wanted),))
    library = read_library(store, environment)
    checks = [_verified_among_others(settings, store, backup.id) for backup in library.backups]
    checks += _others(library)
    if not any(check.status in ("ok", "failed") for check in checks):
        checks.append(failed("backups", f"{environment} has none in {store.url}", f"kg backup {environment}"))
    return Report(tuple(checks))


def _others(library: Library) -> Iterator[CheckResult]:
    for problem in library.problems:
        if problem.stray:
            yield noted(problem.name, f"{problem.reason}, and left alone")
        else:
            yield failed(problem.name, problem.reason)
    for leftover in library.leftovers:
        yield noted(leftover.id, "it has no manifest, so it is no backup: under way, or killed (prune sweeps it)")


def _verified_among_others(settings: Settings, store: Store, wanted: str) -> CheckResult:
    """Keys change: an identity that does not fit one backup says nothing about the next."""
    try:
        return _verified(settings, store, wanted)
    except SettingsError as error:
        return failed(wanted, error.message, error.hint or "")


def _verified(settings: Settings, store: Store, wanted: str) -> CheckResult:
    try:
        backup = find(store, settings.environment, wanted)
        tool = backup.manifest.tool
        found = read_back(store, backup, tools_for(tool.pg_dump_major, settings.home), settings.store_identity)
    except (IntegrityError, ObjectMissing) as error:
        return failed(wanted, error.message)
    inside = (
        f"{found.toc.entries} entries: unchanged"
        if found
        else ("the stored bytes are unchanged; encrypted, so its contents need KG_STORE_IDENTITY")
    )
    sizes = f"{size(backup.stored_bytes)} stored, {size(backup.manifest.plain_bytes)} unpacked"
    return ok(wanted, f"{sizes}, {inside}")


def check_contents(backup: Backup, found: Contents) -> None:
    """Raises IntegrityError unless the archive's table of contents is the manifest's."""
    wanted = backup.manifest.toc
    if found.toc != wanted:
        raise IntegrityError(
            f"the table of contents of {backup.dump_key} is not the manifest's: "
            f"{found.toc.entries} entries, {found.toc.sha256[:16]}…; expected {wanted.entries}, {wanted.sha256[:16]}…"
        )
