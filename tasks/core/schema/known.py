"""The migration files that a database knows by its ledger. One that is merely pending may be half-written, misnamed or
refused, and must hinder neither a look at the database nor the way back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.migrations import Migration, readable_migrations


def readable(folder: Path, applied: Iterable[ledger.Entry]) -> tuple[tuple[Migration, ...], str]:
    """The migrations of `folder`, and why others were left out ("": none was). Raises OpsError for an applied one."""
    return readable_migrations(folder, {f"{entry.revision}_{entry.name}" for entry in applied})


def known(conn: Connection, folder: Path, *, begun: Collection[str] = ()) -> tuple[Migration, ...]:
    """Of the revisions that are applied or `begun`, and of those reverted since, where their file is the same still."""
    history, applied = ledger.history(conn), ledger.entries(conn)
    texts = {(entry.revision, entry.checksum) for entry in history}
    wanted = {*begun, *(entry.revision for entry in applied)}
    files, _ = readable(folder, applied)
    return tuple(each for each in files if each.revision in wanted or (each.revision, each.checksum) in texts)
