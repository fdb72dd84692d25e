"""Large vector tables beside the dump: which they are, in how many ranges, and their rows by COPY BINARY, several
streams at once, all in the dump's snapshot.

A stream is a range of one leaf relation (ONLY). TID range scans came with PostgreSQL 14: before it a table is one
stream. What is left out here stays in pg_dump, and the archive's table of contents is held against that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

from psycopg.sql import SQL, Composed, Identifier, Literal

from sql import query
from tasks.core.addresses import Address
from tasks.core.backup.contents import Table
from tasks.core.backup.copying import CopyOut, copy_session, widen
from tasks.core.backup.crew import Crew, workers
from tasks.core.backup.manifest import Column, Rows, StoredObject
from tasks.core.backup.packing import Packer
from tasks.core.backup.snapshot import Snapshot, join
from tasks.core.errors import BackupError
from tasks.core.postgres.connections import Connection, database_errors, describe
from tasks.core.settings import Settings

_USUAL_RANGE = 256 << 20  # bytes of the table: small, so that all workers end together
_MOST_RANGES = 256  # of a table: each is an object and a session
_MOST_TABLES = 1_000  # each is a word of pg_dump's command
_GROWTH = 2  # toasted values may be compressed in the table, and are not in a stream
_RANGES_SINCE = 140_000


@dataclass(frozen=True)
class Stream:
    """Rows of `table` from heap block `first` on, up to but without `end`; None: to the last, and any that follow."""

    table: Table
    columns: tuple[Column, ...]
    first: int
    end: int | None
    size: int
    number: int

    @property
    def name(self) -> str:
        """Of its object. The number makes it unique where two tables' names become the same."""
        words = (re.sub(r"[^A-Za-z0-9_-]", "_", word) for word in (self.table.schema, self.table.name))
        return f"data/{'.'.join(words)}.{self.number}.copy.zst"

    def statement(self) -> Composed:
        return query("copy_range_out").format(
            columns=SQL(", ").join(Identifier(column.name) for column in self.columns),
            table=self.table.identifier,
            condition=self._condition(),
        )

    def _condition(self) -> Composed:
        limits = [SQL("ctid >= {}::tid").format(Literal(f"({self.first},0)"))] if self.first else []
        if self.end is not None:
            limits.append(SQL("ctid < {}::tid").format(Literal(f"({self.end},0)")))
        return SQL(" AND ").join(limits) if limits else Composed([SQL("true")])


def planned(conn: Connection, tables: Sequence[Table], settings: Settings) -> tuple[Stream, ...]:
    """The streams of the tables that qualify, in the snapshot of `conn`. They are locked against truncation: they have
    no fewer blocks than the snapshot sees.
    """
    if settings.backup.format == "portable":
        return ()
    by_label = {table.label: table for table in tables if table.has_rows and not table.condition}
    with database_errors("looking for large vector tables"):
        conn.execute(query("set_setting"), {"name": "search_path", "value": "pg_catalog"})
        found = conn.execute(query("streamable_tables"), {"labels": list(by_label)}).fetchall()
    encoding = describe(conn).encoding
    streams: list[Stream] = []
    for label, size, blocks, names, types in found[:_MOST_TABLES]:
        if size < settings.backup.binary_from_mb << 20 or not _writable([label, *names], encoding):
            continue
        columns = tuple(Column(name=name, type=kind) for name, kind in zip(names, types, strict=True))
        cuts = _cuts(size, blocks) if conn.info.server_version >= _RANGES_SINCE else [0]
        for first, end in zip(cuts, [*cuts[1:], None], strict=True):
            share = size // len(cuts) * _GROWTH
            streams.append(Stream(by_label[label], columns, first, end, share, len(streams) + 1))
    return tuple(streams)


class Sessions:
    """Sessions in the snapshot, one for each stream that runs: opening one costs as much as copying 20 MB."""

    def __init__(self, settings: Settings, address: Address, snapshot: Snapshot) -> None:
        self.settings, self._address, self._snapshot = settings, address, snapshot
        self._idle: SimpleQueue[Connection] = SimpleQueue()

    @contextmanager
    def one(self) -> Iterator[Connection]:
        """Raises DatabaseError. After a failure the session is closed, since nobody knows its state."""
        try:
            conn = self._idle.get_nowait()
        except Empty:
            conn = self._opened()
        try:
            yield conn
        except BaseException:
            conn.close()
            raise
        self._idle.put(conn)

    def close(self) -> None:
        """Those that no stream has."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    def _opened(self) -> Connection:
        longest = self.settings.backup.dump_timeout
        conn = copy_session(self._address, "backup data", longest)
        try:
            widen(conn)
            join(conn, self._snapshot, lock_timeout=self.settings.database.lock_timeout, longest=longest)
        except BaseException:
            conn.close()
            raise
        return conn


@contextmanager
def streaming(sessions: Sessions, packer: Packer, streams: Sequence[Stream]) -> Iterator[Crew[StoredObject]]:
    """A crew that stores them; its results are the objects, with the rows that each holds."""
    jobs = [partial(_store, sessions, packer, each) for each in streams]
    with closing(sessions), Crew(jobs, "data") as crew:
        yield crew


def check_counts(objects: Sequence[StoredObject], streams: Sequence[Stream], counted: dict[str, int]) -> None:
    """Raises BackupError unless the streams of each table hold just the rows that were counted in the snapshot."""
    copied: dict[str, int] = {}
    for stream, found in zip(streams, objects, strict=True):
        assert found.data
        copied[stream.table.label] = copied.get(stream.table.label, 0) + found.data.rows
    for label, rows in copied.items():
        if counted[label] != rows:
            raise BackupError(f"the streams of {label} hold {rows} rows, and {counted[label]} were counted")


def _store(sessions: Sessions, packer: Packer, stream: Stream, crew: Crew[StoredObject]) -> StoredObject:
    patience = sessions.settings.backup.stall_timeout.total_seconds()
    with sessions.one() as conn:
        out = CopyOut(conn, stream.statement(), stream.table.label, patience, crew.check)

        def chunks() -> Iterator[bytes]:
            for chunk in out:
                crew.advance(len(chunk))
                yield chunk

        stored = packer.put_packed(stream.name, chunks(), size_hint=stream.size)
    data = Rows(schema_name=stream.table.schema, table_name=stream.table.name, columns=stream.columns, rows=out.rows)
    return stored.model_copy(update={"data": data})


def _cuts(size: int, blocks: int) -> list[int]:
    """The first block of each range. As many as the workers, or a multiple of it."""
    crew = workers()
    turns = max(1, min(round(size / _USUAL_RANGE / crew), _MOST_RANGES // crew))
    pieces = max(1, min(blocks, turns * crew))
    return [blocks * number // pieces for number in range(pieces)]


def _writable(names: Sequence[str], encoding: str) -> bool:
    """Can load.sql name them? It is a file of UTF-8 with a line for each stream."""
    return all(name.isprintable() and (encoding == "UTF8" or name.isascii()) for name in names)
