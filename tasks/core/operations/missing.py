"""After a revert: are the rows there that the deploy's backup counted? A fingerprint knows the form of tables only: no
down script brings back what an up script deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.core.backup.contents import dumped_tables, identity_of, sample_rows
from tasks.core.backup.library import find
from tasks.core.backup.manifest import Manifest
from tasks.core.errors import OpsError, RowsMissing
from tasks.core.operations.operation import Operation
from tasks.core.operations.stakes import count_rows
from tasks.core.postgres.connections import Connection
from tasks.core.progress import note
from tasks.core.settings import Environment
from tasks.core.store.base import open_store

if TYPE_CHECKING:
    from tasks.core.operations.rollback import RolledBack


def missing_rows(operation: Operation, conn: Connection, backup_id: str) -> tuple[str, ...]:
    """A line for each table of ours that has fewer rows now than that backup. Reads only; never raises for the store:
    the database has gone back already, and what cannot be compared is said.

    As many rows with another content is a note: the application writes while a deploy runs.
    """
    settings = operation.settings
    try:
        manifest = find(open_store(settings), settings.environment, backup_id, database=identity_of(conn)).manifest
        counted = counted_in(manifest)
        live = count_rows(conn, manifest.our_schema, list(counted))
        _note_changed(conn, manifest, live)
    except OpsError as error:
        note(f"the rows were not compared with backup {backup_id}: {error.message}")
        return ()
    return tuple(
        f"{table} has {live.get(table, 0):,} rows of {rows:,}"
        for table, rows in counted.items()
        if live.get(table, 0) < rows
    )


def counted_in(manifest: Manifest) -> dict[str, int]:
    """Rows of our own tables by name."""
    places = {f"{manifest.our_schema}.{table}": table for table in manifest.our_tables}
    bare = {label.replace('"', ""): rows for label, rows in manifest.tables.items()}
    return {table: bare[place] for place, table in places.items() if place in bare}


def said(missing: tuple[str, ...], backup: str | None) -> str:
    return f"{'; '.join(missing)} that backup {backup} counted: no down script brings rows back" if missing else ""


def require_rows(environment: Environment, undone: RolledBack) -> None:
    """Raises RowsMissing where the way back left rows missing: it names the state, the loss, and what decides.

    The hint is not `--salvage`: that would carry the deletions over as well.
    """
    if undone.missing:
        raise RowsMissing(
            f"{environment} went back to revision {undone.revision or 'none'} (reverted {', '.join(undone.reverted)}), "
            f"but {undone.detail}",
            hint="to have them back (what was written since stays in a schema of replaced tables): kg rollback "
            f"{environment} --strategy restore --backup {undone.compared} --yes",
        )


def _note_changed(conn: Connection, manifest: Manifest, live: dict[str, int]) -> None:
    tables = [table for table in dumped_tables(conn, [manifest.our_schema]) if table.name in live]
    counted = counted_in(manifest)
    with conn.transaction(force_rollback=True):  # what sample_rows sets goes with it
        samples = sample_rows(conn, tables)
    for table in tables:
        wanted = manifest.samples.get(table.label)
        same_count = live[table.name] == counted.get(table.name)
        if wanted and same_count and samples.get(table.label) != wanted:
            note(f"{table.name} has as many rows as backup {manifest.id}, and not the same: some were changed since")
