"""Making a backup: pg_dump -> zstd -> store, streamed, counted in the dump's own snapshot, the manifest last. The rows
of large vector tables go beside it, as COPY BINARY in streams of their own (streams.py).
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from sql import query
from tasks.core import commands
from tasks.core.addresses import Address
from tasks.core.backup import contents
from tasks.core.backup.crew import Crew
from tasks.core.backup.loading import load_script
from tasks.core.backup.manifest import (
    DUMP,
    GLOBALS,
    LOAD,
    Backup,
    Manifest,
    StoredObject,
    ToolFacts,
    new_id,
)
from tasks.core.backup.pace import Pace
from tasks.core.backup.packing import Packer
from tasks.core.backup.snapshot import Snapshot, dumped_schemas, held_snapshot
from tasks.core.backup.streams import Sessions, Stream, check_counts, planned, streaming
from tasks.core.backup.toc import Contents, toc_reader
from tasks.core.errors import BackupError, CommandFailed, ObjectExists
from tasks.core.postgres.connections import Connection, connect, database_errors, target, vector_extension
from tasks.core.postgres.failures import kept_out
from tasks.core.postgres.relay import door
from tasks.core.postgres.tools import Tools, tools_for
from tasks.core.progress import note, track
from tasks.core.progress import size as in_words
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.schema.expected import expected_catalogs
from tasks.core.schema.known import known
from tasks.core.schema.migrations import load_migrations
from tasks.core.settings import Settings
from tasks.core.store.base import open_store

CHUNK = 1 << 20  # bytes read from pg_dump at once, at most
LOCK_ATTEMPTS = 3
_LOCK_CAME_LATE = "canceling statement due to statement timeout"  # pg_dump limits no other statement than its LOCK
TEXT_GROWTH = 3  # a vector as text is three times as long as on disk


@dataclass(frozen=True)
class _Making:
    """One backup under way. `schemas` is None for the whole database, `ours` what the fingerprint covers."""

    settings: Settings
    packer: Packer
    conn: Connection
    address: Address
    schemas: Sequence[str] | None
    ours: tuple[str, ...]
    snapshot: Snapshot
    id: str

    @cached_property
    def tools(self) -> Tools:
        """Looked for when the streams run already: that takes as long as copying 20 MB."""
        return tools_for(self.conn.info.server_version // 10_000, self.settings.home)

    @property
    def facts(self) -> ToolFacts:
        level = self.settings.backup.compression_level
        return ToolFacts(pg_dump=self.tools.version, pg_dump_major=self.tools.major, zstd_level=level)


def back_up(settings: Settings, *, operation: str | None = None) -> Backup:
    """Back up the target into the store, under `operation`'s id in the manifest.

    Whatever is raised (PrivilegeMissing, DatabaseError, BackupError, CommandFailed, StoreError, Ctrl-C), no manifest
    and no object of this backup stays behind. kill -9 leaves objects without a manifest, which prune sweeps.

    Who would drop or alter a table waits for our lock, pg_dump waits behind him, and we for pg_dump. After lock_timeout
    everything is let go, so that he gets through, and is begun again; after the third time it is a BackupError.
    """
    for _ in range(LOCK_ATTEMPTS):
        try:
            return _back_up(settings, operation)
        except CommandFailed as error:
            if _LOCK_CAME_LATE not in str(error):
                raise
            note("somebody wants to change a table that is being backed up: he goes first, and it is begun again")
    raise BackupError(
        f"pg_dump did not get its locks in {LOCK_ATTEMPTS} attempts: others drop or alter tables all the time",
        hint="run it in a quieter moment, or raise database.lock_timeout; pg_stat_activity shows who it is",
    )


def _back_up(settings: Settings, operation: str | None) -> Backup:
    store = open_store(settings)
    address = target(settings)
    database, longest = settings.database, settings.backup.dump_timeout
    with connect(address, purpose="backup", database=database) as conn:
        ours = our_names(conn, settings)
        schemas = dumped_schemas(conn, database)
        with held_snapshot(conn, schemas, lock_timeout=database.lock_timeout, longest=longest) as snapshot:
            id_ = new_id(snapshot.created)
            folder, pace = f"{settings.environment}/{id_}", Pace(settings.backup.compression_level)
            if next(store.list(f"{folder}/"), None):  # who may not even look there is told before hours of dumping
                raise ObjectExists(f"there is a backup {id_} in {store.url} already", hint="run it again")
            packer = Packer(store, folder, pace, settings.store_key)
            making = _Making(settings, packer, conn, address, schemas, ours, snapshot, id_)
            with _undone_on_failure(packer):
                manifest = _make(making, operation or "")
                packer.put_manifest(manifest.to_json())
    return Backup(manifest=manifest)


def our_names(conn: Connection, settings: Settings) -> tuple[str, ...]:
    """What the fingerprint covers: the names that the ledger's revisions have in our schema; without a ledger those
    of the first, which old hand-run scripts made. A file that is only pending may be half-written: no matter here.
    """
    if vector_extension(conn).installed is None:
        return ()  # without the type there can be no table of ours, nor can its expected form be made
    migrations = known(conn, settings.migrations) or load_migrations(settings.migrations)[:1]
    expected = expected_catalogs(conn, migrations, settings.database.schema_name, cache=settings.home / "cache")
    return tuple(sorted(expected.scope))


def dump_argv(
    tools: Tools,
    snapshot: str,
    schemas: Sequence[str] | None,
    lock_timeout: timedelta,
    left_out: Sequence[contents.Table] = (),
) -> list[str | Path]:
    """pg_dump's words; where it connects to, and as whom, is in its environment."""
    return [
        tools.pg_dump,
        "--format=custom",
        "--compress=0",
        "--no-password",
        f"--snapshot={snapshot}",
        f"--lock-wait-timeout={round(lock_timeout.total_seconds() * 1000)}",
        *(f"--schema={contents.literal_pattern(schema)}" for schema in schemas or ()),
        *(f"--exclude-table-data={table.pattern}" for table in left_out),
    ]


def _make(making: _Making, operation: str) -> Manifest:
    """Everything between the snapshot and the manifest."""
    conn, settings, snapshot = making.conn, making.settings, making.snapshot
    streams, server = planned(conn, snapshot.tables, settings), contents.server_facts(conn)
    with streaming(Sessions(settings, making.address, snapshot), making.packer, streams) as crew:
        rows = contents.count_rows(conn, snapshot.tables)
        samples = contents.sample_rows(conn, snapshot.tables)
        sequences = contents.check_sequences(conn, snapshot.tables)
        entries = ledger.entries(conn)
        catalog = read_catalog(conn, settings.database.schema_name, making.ours)
        roles, extensions = contents.named_roles(conn), contents.installed_extensions(conn)
        identity = contents.identity_of(conn)
        archive, found = _store_archive(making, streams, crew)
        texts = [making.packer.put_text(GLOBALS, contents.role_definitions(conn, roles))]
        data = _finished(conn, crew, streams) if streams else ()
    check_counts(data, streams, rows)
    if data:
        texts.append(making.packer.put_text(LOAD, load_script(data, server.encoding)))
    return Manifest(
        id=making.id,
        environment=settings.environment,
        created=snapshot.created,
        revision=entries[-1].revision if entries else "",
        operation=operation,
        scope=tuple(making.schemas) if making.schemas is not None else "database",
        database=identity,
        server=server,
        tool=making.facts,
        tables=rows,
        samples=samples,
        sequences=sequences,
        our_schema=settings.database.schema_name,
        our_tables=making.ours,
        fingerprint=fingerprint(catalog),
        roles=roles,
        extensions=extensions,
        format="binary" if data else "portable",
        objects=(archive, *data, *texts),
        toc=found.toc,
        snapshot_held_seconds=round(snapshot.held_seconds, 3),
        lsn=snapshot.lsn,
    ).sealed()


class _PgDumpError(Exception):
    """pg_dump failed; what it said is raised by commands.stream."""


def _store_archive(
    making: _Making, streams: Sequence[Stream], crew: Crew[StoredObject]
) -> tuple[StoredObject, Contents]:
    """The archive, with what is in it; `crew` stores the data objects meanwhile. No table's rows are in both, nor in
    none.
    """
    apart = {stream.table.label: stream.table for stream in streams}
    inside = [table for table in making.snapshot.tables if table.label not in apart]
    archive, found = _dump(making, inside, list(apart.values()), crew)
    found.check_tables(inside)
    return archive, found


def _finished(conn: Connection, crew: Crew[StoredObject], streams: Sequence[Stream]) -> tuple[StoredObject, ...]:
    labels = {stream.table.label for stream in streams}
    with track("data", "Large tables to the store", total=_table_bytes(conn, labels), unit="bytes") as progress:
        data = tuple(crew.finish(progress.reach))
        plain, stored = sum(each.plain_bytes for each in data), sum(each.stored_bytes for each in data)
        progress.say(f"{in_words(plain)} as {in_words(stored)}, {len(data)} streams")
    return data


def _dump(
    making: _Making, tables: Sequence[contents.Table], left_out: Sequence[contents.Table], crew: Crew[StoredObject]
) -> tuple[StoredObject, Contents]:
    limits, stored, passed = making.settings.backup, None, 0
    argv = dump_argv(
        making.tools, making.snapshot.name, making.schemas, making.settings.database.lock_timeout, left_out
    )
    size = _table_bytes(making.conn, [table.label for table in tables if table.has_rows]) * TEXT_GROWTH
    with (
        track("dump", "Dump to the store", total=size or None, unit="bytes") as progress,
        toc_reader(making.tools) as toc,
        door(making.address, making.tools) as way,
        kept_out(making.address),
        commands.stream(
            argv, env={**way.environment(), "PGAPPNAME": "kg backup dump"}, timeout=limits.dump_timeout.total_seconds()
        ) as child,
    ):

        def output() -> Iterator[bytes]:
            nonlocal passed
            for chunk in _output_of(child, limits.stall_timeout):
                crew.raise_failure()
                toc.feed(chunk)
                passed += len(chunk)
                progress.reach(passed)
                yield chunk
            if child.process.wait() != 0:
                raise _PgDumpError  # before the last byte is out: so the store never sees a whole object

        with suppress(_PgDumpError):
            stored = making.packer.put_packed(DUMP, output(), size_hint=size)
            progress.say(f"{in_words(stored.plain_bytes)} as {in_words(stored.stored_bytes)}")
        found = toc.contents()
    assert stored, "pg_dump's failure has been raised"
    return stored, found


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
def _undone_on_failure(packer: Packer) -> Iterator[None]:
    """Delete what was put, unless the block ends well."""
    try:
        yield
    except BaseException:
        packer.undo()
        raise


def _table_bytes(conn: Connection, labels: Iterable[str]) -> int:
    """With what is stored out of line, without indexes."""
    with database_errors("reading the tables' sizes"):
        row = conn.execute(query("dumped_bytes"), {"labels": list(labels)}).fetchone()
    return int(row[0]) if row else 0
