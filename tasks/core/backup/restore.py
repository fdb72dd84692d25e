"""Our tables from a proved backup, built beside the live ones in the target, before anything is swapped.

The archive is restored into a scratch server first, where our tables move to a schema of their own; only that schema is
then carried to the target (carrying.py). So no archive's text is rewritten: the server itself spells the new
schema. Other people's tables are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.backup.archive import restore_archive
from tasks.core.backup.building import build_options, through_pooler, wanted_memory
from tasks.core.backup.carrying import Hop, carry
from tasks.core.backup.contents import count_rows, dumped_tables, sample_rows
from tasks.core.backup.loss import tables_in
from tasks.core.backup.manifest import Backup
from tasks.core.errors import IntegrityError
from tasks.core.operations.operation import Operation
from tasks.core.postgres.connections import Connection, connect, database_errors, describe
from tasks.core.postgres.scratch import scratch_database
from tasks.core.progress import track
from tasks.core.schema import ledger
from tasks.core.schema.catalog import fingerprint, read_catalog
from tasks.core.settings import Settings


@dataclass(frozen=True)
class Staged:
    """Our tables as the backup has them, in `schema` of the target. `entries` is the backup's ledger."""

    backup: Backup
    schema: str
    tables: tuple[str, ...]
    entries: tuple[ledger.Entry, ...]


@contextmanager
def staged(operation: Operation, backup: Backup, tables: Sequence[str]) -> Iterator[Staged]:
    """Those of `tables` that the backup holds, restored beside the live ones and compared with the manifest.

    The staging schema is gone after the block, swapped or not. Raises IntegrityError where the copy differs from the
    manifest, CommandFailed and DatabaseError where it could not be built.
    """
    settings = operation.settings
    schema = f"kg_restore_{operation.id.hex[:8]}"
    with operation.step("stage", schema=schema, backup=backup.id), operation.session("restore") as conn:
        try:
            found, labels = _carry_over(settings, conn, backup, schema, tables)
            _compare_with_manifest(conn, found, labels)
        except BaseException:
            _drop(conn, schema)
            raise
    try:
        yield found
    finally:
        with operation.session("restore clean-up") as conn:
            _drop(conn, schema)


def _carry_over(
    settings: Settings, conn: Connection, backup: Backup, schema: str, tables: Sequence[str]
) -> tuple[Staged, dict[str, str]]:
    """Also what the manifest calls each of the tables."""
    assert settings.address is not None
    with scratch_database(settings, like=describe(conn)) as scratch:
        with track("restore-scratch", f"Restore {backup.id} into a scratch server"):
            restore_archive(settings, backup, scratch)
        with connect(scratch.address, purpose="restore") as copy:
            entries = ledger.entries(copy) if ledger.exists(copy) else ()
            wanted = wanted_memory(copy, backup.manifest)
            options = {} if through_pooler(conn) else build_options(settings, conn, wanted)
            labels = {table.name: table.label for table in dumped_tables(copy, [settings.database.schema_name])}
            moved = _move_to(copy, settings.database.schema_name, schema, tables)
        with track("restore-target", f"Build {len(moved)} tables in schema {schema} of the target"):
            _make_schema(conn, schema)
            major = conn.info.server_version // 10_000
            carry(Hop(settings, scratch, settings.address, major, schema), options)
    return Staged(backup, schema, moved, entries), labels


def _move_to(copy: Connection, source: str, schema: str, tables: Sequence[str]) -> tuple[str, ...]:
    """In the scratch database: our tables and their trigger functions move to a schema that only they are in."""
    present = [table for table in tables_in(copy, source) if table in tables]
    with database_errors("moving the restored tables to a schema of their own"), copy.transaction():
        copy.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
        move_objects(copy, source, schema, present)
    return tuple(present)


def move_objects(conn: Connection, source: str, target: str, tables: Sequence[str]) -> None:
    """Move tables (with their indexes, sequences, triggers) and the functions their triggers call."""
    values = {"schema": source, "tables": list(tables)}
    functions = conn.execute(query("trigger_functions_of"), values).fetchall()
    for table in tables:
        conn.execute(SQL("ALTER TABLE {} SET SCHEMA {}").format(Identifier(source, table), Identifier(target)))
    for name, arguments in functions:
        conn.execute(
            SQL("ALTER FUNCTION {}({}) SET SCHEMA {}").format(
                Identifier(source, name),
                SQL(arguments),  # the server's own spelling of argument types; a trigger function has none
                Identifier(target),
            )
        )


def _make_schema(conn: Connection, schema: str) -> None:
    """Here, not from the archive: in the scratch database it belongs to that server's superuser, who need not exist in
    the target.
    """
    with database_errors(f"making the staging schema {schema}"):
        conn.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))


def _compare_with_manifest(conn: Connection, found: Staged, labels: Mapping[str, str]) -> None:
    """The form, the number of rows, and a sample of them: a drill has seen another copy, and not this one."""
    manifest = found.backup.manifest
    copied = fingerprint(read_catalog(conn, found.schema, found.tables))
    if manifest.fingerprint and copied != manifest.fingerprint:
        raise _differs(found, f"has fingerprint {copied[:12]}", manifest.fingerprint[:12])
    tables = dumped_tables(conn, [found.schema])
    rows = count_rows(conn, tables)
    with conn.transaction(force_rollback=True):  # what sample_rows sets goes with it
        samples = sample_rows(conn, tables)
    for table in tables:
        wanted = manifest.tables.get(labels[table.name])
        if rows.get(table.label) != wanted:
            raise _differs(found, f"has {rows.get(table.label)} rows in {table.name}", str(wanted))
        wanted_sample = manifest.samples.get(labels[table.name])
        if wanted_sample and samples.get(table.label) != wanted_sample:
            raise _differs(found, f"has other rows in {table.name}", f"those whose sample is {wanted_sample[:12]}")


def _differs(found: Staged, what: str, wanted: str) -> IntegrityError:
    environment = found.backup.manifest.environment
    return IntegrityError(
        f"the copy of backup {found.backup.id} built in {found.schema} {what}, its manifest says {wanted}",
        hint=f"prove the backup again: kg restore-drill {environment} --backup {found.backup.id}",
    )


def _drop(conn: Connection, schema: str) -> None:
    with database_errors(f"dropping the staging schema {schema}"):
        conn.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))
