"""Making a backup: pg_dump -> zstd -> store, streamed, counted in the dump's own snapshot, the manifest last."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sql import query
from tasks.core import commands
from tasks.core.addresses import Address
from tasks.core.backup import contents
from tasks.core.backup.encryption import encrypted
from tasks.core.backup.manifest import (
    DUMP,
    ENCRYPTED,
    MANIFEST,
    Backup,
    Manifest,
    StoredObject,
    ToolFacts,
    new_id,
)
from tasks.core.backup.snapshot import Snapshot, dumped_schemas, held_snapshot
from tasks.core.backup.toc import Contents, toc_reader
from tasks.core.errors import BackupError, ObjectExists, StoreError
from tasks.core.postgres.connections import Connection, connect, database_errors, describe, target, vector_extension
from tasks.core.postgres.relay import door
from tasks.core.postgres.tools import Tools, tools_for
from tasks.core.progress import note, track
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.schema.expected import expected_catalogs
from tasks.core.schema.migrations import load_migrations
from tasks.core.settings import Settings
from tasks.core.store.base import Store, Stored, Tally, open_store

CHUNK = 1 << 20  # bytes read from pg_dump at once, at most
TEXT_GROWTH = 3  # a vector as text is three times as long as on disk


@dataclass(frozen=True)
class _Making:
    """One backup under way. `schemas` is None for the whole database, `ours` what the fingerprint covers."""

    settings: Settings
    store: Store
    conn: Connection
    address: Address
    tools: Tools
    schemas: Sequence[str] | None
    ours: tuple[str, ...]
    snapshot: Snapshot
    id: str

    @property
    def folder(self) -> str:
        return f"{self.settings.environment}/{self.id}"

    @property
    def facts(self) -> ToolFacts:
        level = self.settings.backup.compression_level
        return ToolFacts(pg_dump=self.tools.version, pg_dump_major=self.tools.major, zstd_level=level)


def back_up(settings: Settings, *, operation: str | None = None) -> Backup:
    """Back up the target into the store, under `operation`'s id in the manifest.

    Whatever is raised (PrivilegeMissing, DatabaseError, BackupError, CommandFailed, StoreError, Ctrl-C), no manifest
    and no object of this backup stays behind. kill -9 leaves objects without a manifest, which prune sweeps.
    """
    store = open_store(settings)
    address = target(settings)
    database, longest = settings.database, settings.backup.dump_timeout
    with connect(address, purpose="backup", database=database) as conn:
        tools = tools_for(describe(conn).major, settings.home)
        ours = our_names(conn, settings)
        schemas = dumped_schemas(conn, database)
        with held_snapshot(conn, schemas, lock_timeout=database.lock_timeout, longest=longest) as snapshot:
            id_ = new_id(snapshot.created)
            making = _Making(settings, store, conn, address, tools, schemas, ours, snapshot, id_)
            with _undone_on_failure(store, making.folder):
                manifest = _make(making, operation or "")
                store.put(f"{making.folder}/{MANIFEST}", [manifest.to_json()], only_if_absent=True)
    return Backup(manifest=manifest)


def our_names(conn: Connection, settings: Settings) -> tuple[str, ...]:
    """What the fingerprint covers: the names that the ledger's revisions have in our schema; without a ledger those
    of the first, which old hand-run scripts made. A file that is only pending may be half-written: no matter here.
    """
    if vector_extension(conn).installed is None:
        return ()  # without the type there can be no table of ours, nor can its expected form be made
    known = {entry.revision for entry in ledger.history(conn)}
    files = load_migrations(settings.migrations)
    migrations = [each for each in files if each.revision in known] or files[:1]
    expected = expected_catalogs(conn, migrations, settings.database.schema_name, cache=settings.home / "cache")
    return tuple(sorted(expected.scope))


def dump_argv(tools: Tools, snapshot: str, schemas: Sequence[str] | None, lock_timeout: timedelta) -> list[str | Path]:
    """pg_dump's words; where it connects to, and as whom, is in its environment."""
    return [
        tools.pg_dump,
        "--format=custom",
        "--compress=0",
        "--no-password",
        f"--snapshot={snapshot}",
        f"--lock-wait-timeout={round(lock_timeout.total_seconds() * 1000)}",
        *(f"--schema={_literal_pattern(schema)}" for schema in schemas or ()),
    ]


def _make(making: _Making, operation: str) -> Manifest:
    """Everything between the snapshot and the manifest."""
    conn, settings, snapshot = making.conn, making.settings, making.snapshot
    rows = contents.count_rows(conn, snapshot.tables)
    samples = contents.sample_rows(conn, snapshot.tables)
    sequences = contents.check_sequences(conn, snapshot.tables)
    entries = ledger.entries(conn)
    catalog = read_catalog(conn, settings.database.schema_name, making.ours)
    stored, found = _dump(making)
    found.check_tables(snapshot.tables)
    return Manifest(
        id=making.id,
        environment=settings.environment,
        created=snapshot.created,
        revision=entries[-1].revision if entries else "",
        operation=operation,
        scope=tuple(making.schemas) if making.schemas is not None else "database",
        database=contents.identity_of(conn),
        server=contents.server_facts(conn),
        tool=making.facts,
        tables=rows,
        samples=samples,
        sequences=sequences,
        our_schema=settings.database.schema_name,
        our_tables=making.ours,
        fingerprint=fingerprint(catalog),
        roles=contents.named_roles(conn),
        extensions=contents.installed_extensions(conn),
        objects=(stored,),
        toc=found.toc,
        snapshot_held_seconds=round(snapshot.held_seconds, 3),
        lsn=snapshot.lsn,
    ).sealed()


class _PgDumpError(Exception):
    """pg_dump failed; what it said is raised by commands.stream."""


def _dump(making: _Making) -> tuple[StoredObject, Contents]:
    limits = making.settings.backup
    argv = dump_argv(making.tools, making.snapshot.name, making.schemas, making.settings.database.lock_timeout)
    size = _estimate(making.conn, making.snapshot)
    plain, stored = Tally(), None
    with (
        track("dump", "Dump to the store", total=size or None, unit="bytes") as progress,
        toc_reader(making.tools) as toc,
        door(making.address, making.tools) as way,
        commands.stream(
            argv, env={**way.environment(), "PGAPPNAME": "kg backup dump"}, timeout=limits.dump_timeout.total_seconds()
        ) as child,
    ):

        def output() -> Iterator[bytes]:
            for chunk in _output_of(child, limits.stall_timeout):
                toc.feed(plain.add(chunk))
                progress.reach(plain.size)
                yield chunk
            if child.process.wait() != 0:
                raise _PgDumpError  # before the last byte is out: so the store never sees a whole object

        with suppress(_PgDumpError):
            packed = _compressed(output(), limits.compression_level)
            if key := making.settings.store_key:
                packed = encrypted(packed, key)
            name = ENCRYPTED if key else DUMP
            stored = making.store.put(f"{making.folder}/{name}", packed, size_hint=size)
            progress.say(f"{plain.size / 2**20:,.1f} MiB as {stored.size / 2**20:,.1f} MiB")
        found = toc.contents()
    assert stored, "pg_dump's failure has been raised"
    return _object(name, plain.stored, stored, key), found


def _compressed(chunks: Iterable[bytes], level: int) -> Iterator[bytes]:
    import zstandard  # not needed, hence not loaded, by verbs that only read

    # The checksum lets zstd alone find damage, also in a restore by hand.
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
    for chunk in chunks:
        if packed := compressor.compress(chunk):
            yield packed
    yield compressor.flush()


def _object(name: str, plain: Stored, stored: Stored, key: str) -> StoredObject:
    return StoredObject(
        name=name,
        age=key,
        plain_bytes=plain.size,
        plain_sha256=plain.sha256,
        stored_bytes=stored.size,
        stored_sha256=stored.sha256,
    )


def _output_of(child: commands.Running, stall_timeout: timedelta) -> Iterator[bytes]:
    """What pg_dump writes, as it comes. Raises BackupError when nothing comes for `stall_timeout`."""
    descriptor, patience = child.stdout.fileno(), stall_timeout.total_seconds()
    while True:
        readable, _, _ = select.select([descriptor], [], [], patience)
        if not readable:
            raise BackupError(
                f"pg_dump wrote nothing for {patience:.0f} s and was ended",
                hint="look at its session in pg_stat_activity; backup.stall_timeout sets how long is waited",
            )
        chunk = os.read(descriptor, CHUNK)
        if not chunk:
            return
        yield chunk


@contextmanager
def _undone_on_failure(store: Store, folder: str) -> Iterator[None]:
    """Delete what was put into `folder`, unless the block ends well."""
    try:
        yield
    except BaseException as error:
        # A taken manifest key is another run's: hands off.
        mine = (DUMP, ENCRYPTED) if isinstance(error, ObjectExists) else (MANIFEST, DUMP, ENCRYPTED)
        for name in mine:
            try:
                store.delete(f"{folder}/{name}")
            except StoreError as left:
                note(f"{folder}/{name} may be left behind, and prune sweeps it: {left.message}")
        raise


def _estimate(conn: Connection, snapshot: Snapshot) -> int:
    """About how many bytes pg_dump will write, rather too many."""
    labels = [table.label for table in snapshot.tables if table.has_rows]
    with database_errors("reading the tables' sizes"):
        row = conn.execute(query("dumped_bytes"), {"labels": labels}).fetchone()
    return int(row[0]) * TEXT_GROWTH if row else 0


def _literal_pattern(schema: str) -> str:
    """A pattern of pg_dump that means this one schema: in double quotes nothing but $ and quotes is special."""
    return '"' + schema.replace('"', '""') + '"'
