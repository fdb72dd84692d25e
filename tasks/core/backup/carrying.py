"""The second hop of a restore beside: one schema of the scratch database into the target. Large vector tables go as
COPY BINARY, several streams at once; the rest by pg_dump straight into pg_restore. Nothing lies on a disk between.

Every session on the target is called `kg stage`: whoever starts after a kill waits for those, since a server may have
all it needs to commit. What they leave then is a staging schema, which recovery drops.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tasks.core import commands
from tasks.core.addresses import Address
from tasks.core.backup.contents import Table, dumped_tables, literal_pattern
from tasks.core.backup.copying import CopyOut, copy_session, widen
from tasks.core.backup.crew import Crew
from tasks.core.backup.loading import check_types, copy_in, set_encoding
from tasks.core.backup.manifest import Rows
from tasks.core.backup.restoring import restoring
from tasks.core.backup.streams import Stream, planned
from tasks.core.errors import IntegrityError
from tasks.core.postgres.connections import connect, database_errors
from tasks.core.postgres.scratch import Scratch
from tasks.core.progress import track
from tasks.core.settings import Settings

_PURPOSE = "stage"
_FORM_AND_ROWS = ("--section=pre-data", "--section=data")


@dataclass(frozen=True)
class Hop:
    """From `scratch` to `target`, a server of that major; `schema` is there, empty, in the target."""

    settings: Settings
    scratch: Scratch
    target: Address
    major: int
    schema: str


def carry(hop: Hop, options: Mapping[str, str]) -> None:
    """The schema with all that is in it. `options` are settings of the session that builds its indexes.

    Raises CommandFailed, DatabaseError, BackupError for a stream that stalls, IntegrityError where a table of the
    target is not, or does not hold, what the scratch database has.
    """
    with connect(hop.scratch.address, purpose="restore") as conn:
        streams = planned(conn, dumped_tables(conn, [hop.schema]), hop.settings)
    apart = {stream.table.label: stream.table for stream in streams}
    _through_archive(hop, _FORM_AND_ROWS, apart.values(), {})
    _through_streams(hop, streams)
    _through_archive(hop, ("--section=post-data",), (), options)


def _through_archive(hop: Hop, sections: Sequence[str], left_out: Iterable[Table], options: Mapping[str, str]) -> None:
    dump: list[str | Path] = [
        hop.scratch.tools.pg_dump,
        "--format=custom",
        "--compress=0",
        f"--schema={literal_pattern(hop.schema)}",
        *sections,
        *(f"--exclude-table-data={table.pattern}" for table in left_out),
    ]
    words = ["--single-transaction", f"--schema={hop.schema}"]
    with (
        restoring(hop.scratch.tools, hop.target, hop.major, words, options=options, purpose=_PURPOSE) as writer,
        commands.stream(dump, env=hop.scratch.address.environment(), timeout=None) as reader,
    ):
        shutil.copyfileobj(reader.stdout, writer.stdin, 1 << 20)


def _through_streams(hop: Hop, streams: Sequence[Stream]) -> None:
    if not streams:
        return
    total = sum(stream.size for stream in streams)
    with (
        track("restore-carry", "Carry the rows of large tables", total=total, unit="bytes") as progress,
        Crew([partial(_carry_rows, hop, each) for each in streams], "carry") as crew,
    ):
        progress.say(f"{sum(crew.finish(progress.reach)):,} rows in {len(streams)} streams")


def _carry_rows(hop: Hop, stream: Stream, crew: Crew[int]) -> int:
    limits, label = hop.settings.backup, stream.table.label
    with (
        closing(copy_session(hop.scratch.address, "restore", limits.dump_timeout)) as giver,
        closing(copy_session(hop.target, _PURPOSE, limits.dump_timeout)) as taker,
        database_errors(f"carrying the rows of {label}"),
    ):
        widen(giver)
        set_encoding(taker, giver.info.parameter_status("client_encoding") or "UTF8")
        data = Rows(schema_name=stream.table.schema, table_name=stream.table.name, columns=stream.columns, rows=0)
        check_types(taker, data, label)
        out = CopyOut(giver, stream.statement(), label, limits.stall_timeout.total_seconds(), crew.check)
        rows = copy_in(taker, data, out, crew)
        if rows != out.rows:
            raise IntegrityError(f"{rows} of the {out.rows} rows of {label} reached the target")
        taker.commit()
    return rows
