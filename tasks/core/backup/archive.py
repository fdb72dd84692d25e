"""Restoring a backup into a scratch database: its archive in three passes over the same stream, and with the second
pass the rows that lie beside it (loading.py).

pg_restore reads from a pipe, so no plain copy ever lies on a disk and memory stays constant. It cannot run several jobs
then (-j wants a file it can seek in), which costs little here: nearly all of the time goes into COPY, where one
client keeps up with the decompression, and into the HNSW builds, for which the server starts workers of its own.
The first and last pass need the archive's head only: pg_restore stops reading where the rows begin.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, suppress
from tempfile import TemporaryFile
from typing import IO

from psycopg import Error as PostgresError
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from sql import query
from tasks.core import commands
from tasks.core.backup.building import build_options, wanted_memory
from tasks.core.backup.loading import loading
from tasks.core.backup.manifest import Backup, Manifest
from tasks.core.backup.readback import check_contents
from tasks.core.backup.reading import plain_chunks
from tasks.core.backup.restoring import dbname_word, restoring
from tasks.core.backup.toc import Contents, toc_reader
from tasks.core.errors import DatabaseError
from tasks.core.postgres.connections import Connection, connect, database_errors
from tasks.core.postgres.scratch import Scratch
from tasks.core.postgres.tools import Tools
from tasks.core.progress import note, track
from tasks.core.settings import Settings
from tasks.core.store.base import Store, open_store

__all__ = ["SECTIONS", "dbname_word", "restore_archive", "restore_words"]

SECTIONS = ("pre-data", "data", "post-data")
_TITLES = {"pre-data": "Restore the tables' form", "data": "Restore the rows", "post-data": "Build the indexes"}


def restore_archive(settings: Settings, backup: Backup, scratch: Scratch) -> dict[str, float]:
    """Restore everything into the empty scratch database; seconds by section.

    Every byte of the archive is checked against the manifest on the way. Raises IntegrityError, CommandFailed with what
    pg_restore said, DatabaseError for what the archive needs and this server lacks.
    """
    store = open_store(settings)
    found = _contents(store, backup, scratch.tools, settings.store_identity)
    # A file without a name: whatever kills us, nothing of it stays.
    with TemporaryFile() as chosen, connect(scratch.address, purpose="restore") as conn:
        _prepare(conn, backup.manifest, scratch, found)
        chosen.write(found.without(_present_schemas(conn)).encode())
        chosen.flush()
        seconds = {}
        for section in SECTIONS:
            started = time.monotonic()
            options = {}
            if section == "post-data":
                wanted = wanted_memory(conn, backup.manifest)
                options = build_options(settings, conn, wanted)
            if section == "data":
                _restore_rows(settings, store, backup, scratch, chosen)
            else:
                _restore_section(settings, store, backup, scratch, section, chosen, options)
            seconds[section] = round(time.monotonic() - started, 3)
    return seconds


def restore_words(section: str, chosen: int) -> list[str]:
    """pg_restore's options for one section; `chosen` is the descriptor of its list. Tablespaces, subscriptions and
    security labels belong to the original's cluster, and are left out.
    """
    return [
        "--no-tablespaces",
        "--no-subscriptions",
        "--no-security-labels",
        f"--section={section}",
        f"--use-list=/dev/fd/{chosen}",
    ]


def _restore_rows(settings: Settings, store: Store, backup: Backup, scratch: Scratch, chosen: IO[bytes]) -> None:
    total = sum(found.plain_bytes for found in backup.manifest.streams)
    with loading(settings, store, backup, scratch.address) as crew:
        _restore_section(settings, store, backup, scratch, "data", chosen, {})
        if not backup.manifest.streams:
            return
        with track("restore-streams", "Restore the rows of large tables", total=total, unit="bytes") as progress:
            crew.finish(progress.reach)


def _restore_section(
    settings: Settings,
    store: Store,
    backup: Backup,
    scratch: Scratch,
    section: str,
    chosen: IO[bytes],
    options: dict[str, str],
) -> None:
    words, timeout = restore_words(section, chosen.fileno()), settings.backup.dump_timeout.total_seconds()
    chosen.seek(0)  # where /dev/fd is no second opening, its reader stands where we do
    whole = section == "data"
    total = backup.manifest.dump.plain_bytes if whole else None
    with (
        track(f"restore-{section}", _TITLES[section], total=total, unit="bytes") as progress,
        restoring(
            scratch.tools,
            scratch.address,
            scratch.server.major,
            words,
            options=options,
            timeout=timeout,
            descriptors=[chosen.fileno()],
        ) as child,
        closing(plain_chunks(store, backup, settings.store_identity)) as chunks,
    ):
        for passed in _pump(child, chunks, whole=whole):
            progress.advance(passed)


def _pump(child: commands.Running, chunks: Iterator[bytes], *, whole: bool) -> Iterator[int]:
    """Feed `chunks` to the child as long as it reads. With `whole` the rest is read all the same, to be checked."""
    hungry = True
    for chunk in chunks:
        if hungry:
            try:
                child.stdin.write(chunk)
            except BrokenPipeError:
                hungry = False
        if not (hungry or whole):
            break
        yield len(chunk)
    with suppress(BrokenPipeError):
        child.stdin.close()


def _contents(store: Store, backup: Backup, tools: Tools, identity: SecretStr | None) -> Contents:
    with toc_reader(tools) as toc, closing(plain_chunks(store, backup, identity)) as chunks:
        for chunk in chunks:
            if not toc.feed(chunk):
                break
        found = toc.contents()
    check_contents(backup, found)
    return found


def _prepare(conn: Connection, manifest: Manifest, scratch: Scratch, found: Contents) -> None:
    """What the archive takes for granted: roles always; schemas and extensions where it holds only some schemas."""
    with database_errors("preparing the scratch database"):
        _make_roles(conn, manifest, scratch)
        present = {row[0] for row in conn.execute(query("installed_extensions"))}
    for name, extension in manifest.extensions.items():
        if name not in present and not found.has(f"EXTENSION - {name}"):
            _make_extension(conn, name, extension.schema_name)


def _make_extension(conn: Connection, name: str, schema: str) -> None:
    """Best effort: what needs an extension that cannot be had here fails by its name, and the rest restores."""
    names = {"name": Identifier(name), "schema": Identifier(schema)}
    try:
        if not schema.startswith("pg_"):
            conn.execute(SQL("CREATE SCHEMA IF NOT EXISTS {schema}").format(**names))
        conn.execute(SQL("CREATE EXTENSION IF NOT EXISTS {name} SCHEMA {schema}").format(**names))
    except PostgresError as error:
        note(f"the scratch server has no extension {name}: {error.diag.message_primary}")


def _make_roles(conn: Connection, manifest: Manifest, scratch: Scratch) -> None:
    """Roles that the archive names: owners, grantees, those of policies. NOLOGIN, and only in a cluster of our own."""
    wanted = [role for role in manifest.roles if not role.startswith("pg_")]
    present = {row[0] for row in conn.execute(query("roles_present"), {"roles": wanted})}
    missing = [role for role in wanted if role not in present]
    if missing and not scratch.own:
        raise DatabaseError(
            f"the scratch server lacks the roles {', '.join(missing)}, which the backup names",
            hint=f"make them there, each by CREATE ROLE {Identifier(missing[0]).as_string(conn)} NOLOGIN, "
            "or leave KG_SCRATCH_URL out",
        )
    for role in missing:
        conn.execute(SQL("CREATE ROLE {} NOLOGIN").format(Identifier(role)))


def _present_schemas(conn: Connection) -> list[str]:
    """TOC entries of schemas that are there already: creating them again would end the restore."""
    return [f"SCHEMA - {row[0]}" for row in conn.execute(query("all_schemas"))]
