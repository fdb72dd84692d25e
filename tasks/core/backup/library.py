"""The backups of an environment, as its store has them. Only a whole, unchanged manifest of its own makes a backup."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tasks.core.backup.manifest import KEEP, MANIFEST, PROOF, Backup, Identity, Manifest, Proof, is_id, is_object
from tasks.core.errors import BackupError, IntegrityError, ObjectMissing, UsageError, quoted
from tasks.core.progress import note
from tasks.core.store.base import Entry, Store, meant_key, printable

_MANIFEST_LIMIT = 16 << 20  # bytes; a larger one is none of ours
_READERS = 8


@dataclass(frozen=True)
class Problem:
    """Something under the environment's folder that is not the backup it claims to be, or (`stray`) claims nothing."""

    name: str
    reason: str
    stray: bool = False


@dataclass(frozen=True)
class Leftover:
    """The objects of a backup that has no manifest: one under way, or one that was killed."""

    id: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Library:
    """What the store holds for an environment. `backups` are ordered by snapshot time, newest last."""

    backups: tuple[Backup, ...]
    problems: tuple[Problem, ...]
    leftovers: tuple[Leftover, ...]


def read_library(store: Store, environment: str) -> Library:
    """Everything under the environment's folder. Raises StoreError where the store cannot be read: what could not be
    fetched is never taken for missing.
    """
    folders, problems = _folders(store, environment)
    whole = {name: found for name, found in folders.items() if MANIFEST in found}
    with ThreadPoolExecutor(_READERS, thread_name_prefix="library") as pool:
        read = list(pool.map(lambda name: _read(store, environment, name, whole[name]), whole))
    backups = [backup for backup, _ in read if backup]
    problems += [problem for _, found in read for problem in found]
    rest = {name: found for name, found in folders.items() if name not in whole}
    kept = "it is marked to be kept, and its manifest is missing"
    problems += [Problem(name, kept) for name, found in rest.items() if KEEP in found]
    leftovers = [Leftover(name, tuple(found.values())) for name, found in rest.items() if KEEP not in found]
    return Library(tuple(sorted(backups, key=_age)), tuple(problems), tuple(leftovers))


def backups(store: Store, environment: str) -> tuple[Backup, ...]:
    """All backups, newest last; what is not one is named in a note."""
    library = read_library(store, environment)
    for problem in library.problems:
        note(f"{environment}/{problem.name} does not count: {problem.reason}")
    return library.backups


def find(
    store: Store,
    environment: str,
    wanted: str | None = None,
    *,
    proved: bool = True,
    database: Identity | None = None,
) -> Backup:
    """The backup of that id, or the newest (`proved`: the newest proved); with `database`, only one of that database.

    Raises UsageError for what is no id, BackupError where there is none, IntegrityError where it was damaged.
    """
    if wanted is not None:
        return _find_by_id(store, environment, wanted, database)
    found = [each for each in backups(store, environment) if database is None or _is_of(each, database)]
    usable = [each for each in found if each.proved or not proved]
    if not usable:
        raise BackupError(
            f"{environment} has no {'proved ' if proved else ''}backup in {store.url}"
            + (f" ({len(found)} unproved)" if found else ""),
            hint=f"kg restore-drill {environment} --backup {found[-1].id}" if found else f"kg backup {environment}",
        )
    return usable[-1]


def sweepable(unfinished: Iterable[str], environment: str) -> Iterator[str]:
    """Of a store's unfinished uploads those of backups; the rest is others'."""
    for name in unfinished:
        id_, _, rest = meant_key(name).removeprefix(f"{environment}/").partition("/")
        if is_id(id_) and is_object(rest):
            yield name


def write_proof(store: Store, backup: Backup, proof: Proof) -> Backup:
    """Put the proof beside the manifest."""
    sealed = proof.sealed()
    store.put(backup.key(PROOF), [sealed.to_json()])
    return backup.model_copy(update={"proof": sealed})


def mark(store: Store, backup: Backup, *, keep: bool) -> Backup:
    """Exempt the backup from every prune, or no longer."""
    if keep:
        store.put(backup.key(KEEP), [b"kept\n"])
    else:
        store.delete(backup.key(KEEP))
    return backup.model_copy(update={"kept": keep})


def check_exists(store: Store, environment: str, wanted: str) -> None:
    """One question to the store, before anything long begins. Raises UsageError for what is no id, BackupError.

    It is listed: a store that refuses says why to a list, and only that it does to a look for one object.
    """
    check_id(environment, wanted)
    key = f"{environment}/{wanted}/{MANIFEST}"
    if not any(entry.key == key for entry in store.list(key)):
        raise _no_such(environment, wanted)


def check_id(environment: str, wanted: str) -> None:
    """Raises UsageError for what is no id."""
    if not is_id(wanted):
        raise UsageError(
            f"{quoted(wanted)} is not the id of a backup",
            hint=f"it looks like 20260101T020000Z-0123abcd: kg backups {environment}",
        )


def _no_such(environment: str, wanted: str) -> BackupError:
    return BackupError(f"there is no backup {wanted} of {environment}", hint=f"kg backups {environment} lists them")


def _find_by_id(store: Store, environment: str, wanted: str, database: Identity | None) -> Backup:
    check_id(environment, wanted)
    folder = f"{environment}/{wanted}/"
    entries = {entry.key.removeprefix(folder): entry for entry in store.list(folder)}
    if MANIFEST not in entries:
        raise _no_such(environment, wanted)
    backup, problems = _read(store, environment, wanted, entries)
    if backup is None:
        raise IntegrityError(f"backup {wanted} does not count: {problems[0].reason}")
    for problem in problems:
        note(f"{environment}/{problem.name} does not count: {problem.reason}")
    if database is not None and not _is_of(backup, database):
        raise BackupError(f"backup {wanted} is of another database ({backup.manifest.database.name})")
    return backup


def _folders(store: Store, environment: str) -> tuple[dict[str, dict[str, Entry]], list[Problem]]:
    """The objects of each folder that is named like a backup, by their names; what else lies there is a problem, except
    the empty objects by which consoles show folders.
    """
    folders: dict[str, dict[str, Entry]] = defaultdict(dict)
    problems = []
    for entry in store.list(f"{environment}/"):
        _, name, *rest = entry.key.split("/")
        if is_id(name) and is_object("/".join(rest)):
            folders[name]["/".join(rest)] = entry
        elif entry.size or not entry.key.endswith("/"):
            problems.append(Problem(printable(entry.key.partition("/")[2]), "it is not part of a backup", stray=True))
    return folders, problems


def _read(
    store: Store, environment: str, name: str, entries: Mapping[str, Entry]
) -> tuple[Backup | None, list[Problem]]:
    try:
        manifest = Manifest.from_json(_fetch(store, environment, name, entries[MANIFEST]), f"{name}/{MANIFEST}")
        _check_place(manifest, environment, name, entries)
    except (IntegrityError, ObjectMissing) as error:
        return None, [Problem(name, error.message)]
    bare = Backup(manifest=manifest, kept=KEEP in entries)
    if PROOF not in entries:
        return bare, []
    try:
        proof = Proof.from_json(_fetch(store, environment, name, entries[PROOF]), f"{name}/{PROOF}")
        if (proof.backup, proof.manifest) != (manifest.id, manifest.checksum):
            raise IntegrityError(f"{name}/{PROOF} belongs to another backup")
    except (IntegrityError, ObjectMissing) as error:
        return bare, [Problem(f"{name}/{PROOF}", error.message)]
    return bare.model_copy(update={"proof": proof}), []


def _fetch(store: Store, environment: str, name: str, entry: Entry) -> bytes:
    if entry.size > _MANIFEST_LIMIT:
        raise IntegrityError(f"{name} has {entry.size} bytes: it is not ours")
    with store.open(entry.key) as reader:
        return reader.read()


def _check_place(manifest: Manifest, environment: str, name: str, entries: Mapping[str, Entry]) -> None:
    """A manifest that was copied from elsewhere, or has lost its objects, is no backup."""
    if manifest.id != name or manifest.environment != environment:
        raise IntegrityError(f"its manifest is that of {manifest.environment}/{manifest.id}")
    for wanted in manifest.objects:
        found = entries.get(wanted.name)
        if found is None:
            raise IntegrityError(f"its {wanted.name} is missing")
        if found.size != wanted.stored_bytes:
            raise IntegrityError(f"its {wanted.name} has {found.size} bytes, the manifest says {wanted.stored_bytes}")


def _is_of(backup: Backup, database: Identity) -> bool:
    return backup.manifest.database.is_same(database)


def _age(backup: Backup) -> tuple[object, str]:
    return backup.created, backup.id
