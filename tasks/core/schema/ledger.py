"""The ledger in schema kg_ops of the target database: which revisions are applied there, since when and by whom.

The functions that write run in the caller's transaction, so that a revision and its row commit together.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, LiteralString, cast, overload

from psycopg import errors
from psycopg.rows import class_row
from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.errors import DatabaseError, OpsError, PrivilegeMissing, Refused
from tasks.core.postgres.connections import Connection, role_of
from tasks.core.schema.migrations import Migration

SCHEMA = "kg_ops"
_DDL = Path(__file__).resolve().parents[3] / "sql" / "kg_ops"
_INSTALLATION_KEY = int.from_bytes(b"kg_ops.", "big")  # an advisory key that no one else is likely to take


@dataclass(frozen=True)
class Entry:
    """One row of the ledger. `tolerated` names the differences accepted when an existing schema was adopted."""

    revision: str
    name: str
    checksum: str
    down_checksum: str | None
    kind: Literal["applied", "adopted"]
    state: Literal["applied", "reverted", "superseded"]
    operation: uuid.UUID | None
    backup: str | None
    tolerated: tuple[str, ...]
    fingerprint: str | None
    applied_at: datetime
    verified_at: datetime | None
    ended_at: datetime | None
    ended_by: uuid.UUID | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tolerated", tuple(self.tolerated))  # the driver hands out lists


def exists(conn: Connection) -> bool:
    """Is kg_ops installed, in any version?"""
    row = conn.execute(query("kg_ops_exists")).fetchone()
    return row is not None and bool(row[1])


def ensure(conn: Connection) -> None:
    """Install kg_ops, or bring it to this program's version. Writes nothing where it is there already; two at once
    wait for each other. Raises PrivilegeMissing with the administrator's statement, Refused where a newer kg made it.
    """
    newest = _scripts()[-1][0]
    if _version(conn) == newest:
        return
    with _privileges(conn), conn.transaction():
        conn.execute(query("lock_kg_ops_installation"), {"key": _INSTALLATION_KEY})
        present = _version(conn)
        if present > newest:
            raise Refused(
                f"kg_ops in {conn.info.dbname} has version {present}, this program knows {newest}",
                hint="use the newer version of this program that made it",
            )
        for number, path in _scripts():
            if number > present:
                conn.execute(path.read_bytes())
                conn.execute(query("record_kg_ops_version"), {"number": number})


@overload
def identity(conn: Connection) -> uuid.UUID: ...
@overload
def identity(conn: Connection, *, make: Literal[False]) -> uuid.UUID | None: ...
def identity(conn: Connection, *, make: bool = True) -> uuid.UUID | None:
    """The database's own id; a clone or a restored copy carries the same. Where there is none yet it is made, and
    kg_ops with it, or None with `make` false (which writes nothing, whatever it finds).
    """
    found = _identity(conn) if exists(conn) else None
    if found is None and make:
        ensure(conn)
        conn.execute(query("make_identity"), {"id": uuid.uuid4()})
        found = _identity(conn)
    return found


def _identity(conn: Connection) -> uuid.UUID | None:
    row = conn.execute(query("identity")).fetchone()
    return cast(uuid.UUID, row[0]) if row else None


def history(conn: Connection) -> tuple[Entry, ...]:
    """Every row, oldest first; empty where kg_ops is not installed."""
    if not exists(conn):
        return ()
    try:
        with conn.cursor(row_factory=class_row(Entry)) as cursor:
            return tuple(cursor.execute(query("ledger_history")).fetchall())
    except errors.InsufficientPrivilege as error:
        raise PrivilegeMissing(
            f"role {role_of(conn)} may not read the ledger, kg_ops.ledger",
            hint=_statement("GRANT USAGE ON SCHEMA kg_ops TO {role}; GRANT SELECT ON kg_ops.ledger TO {role}", conn),
        ) from error


def entries(conn: Connection) -> tuple[Entry, ...]:
    """The revisions that are applied, lowest first."""
    applied = (entry for entry in history(conn) if entry.state == "applied")
    return tuple(sorted(applied, key=lambda entry: int(entry.revision)))


def record_applied(
    conn: Connection,
    migration: Migration,
    *,
    operation: uuid.UUID | None = None,
    backup: str | None = None,
    fingerprint: str | None = None,
) -> None:
    """`migration` is applied; `backup` is the id of the one to go back to."""
    _record(conn, migration, "applied", operation, backup, (), fingerprint)


def record_adopted(
    conn: Connection,
    migration: Migration,
    *,
    tolerated: Sequence[str],
    operation: uuid.UUID | None = None,
    backup: str | None = None,
    fingerprint: str | None = None,
) -> None:
    """What was found is `migration`, but for the `tolerated` differences. It is never reverted."""
    _record(conn, migration, "adopted", operation, backup, tolerated, fingerprint)


def record_reverted(conn: Connection, revision: str, *, operation: uuid.UUID | None = None) -> None:
    """Its down script ran in this transaction. Raises OpsError where it was not applied."""
    _end(conn, [revision], "reverted", operation)


def supersede(conn: Connection, revisions: Collection[str], *, operation: uuid.UUID | None = None) -> None:
    """A restore replaced the schema that had them: they are no longer in it."""
    _end(conn, revisions, "superseded", operation)


def record_restored(
    conn: Connection, entry: Entry, *, operation: uuid.UUID | None = None, backup: str | None = None
) -> None:
    """A restore from `backup` brought back what `entry` (of the backup's own ledger) says."""
    values = {**asdict(entry), "tolerated": list(entry.tolerated), "operation": operation, "backup": backup}
    _insert(conn, values)


def mark_verified(conn: Connection, revisions: Iterable[str]) -> None:
    """Verify passed with these applied, now."""
    conn.execute(query("mark_verified"), {"revisions": list(revisions)})


def pending(
    migrations: Sequence[Migration], applied: Sequence[Entry], *, out_of_order: bool = False
) -> tuple[Migration, ...]:
    """What is to be applied, lowest first. Refused: an applied file that has changed since, an applied revision
    without a file, and (unless `out_of_order`) a new file below an applied one.
    """
    files = {migration.revision: migration for migration in migrations}
    for entry in applied:
        _refuse_drift(entry, files.get(entry.revision))
    done = {entry.revision for entry in applied}
    waiting = tuple(migration for migration in migrations if migration.revision not in done)
    newest = max((int(revision) for revision in done), default=-1)
    late = [migration.label for migration in waiting if int(migration.revision) < newest]
    if late and not out_of_order:
        raise Refused(
            f"{', '.join(late)} would be applied after revision {newest:03d}, out of order",
            hint="give it the next free number; or, where it is independent of the later ones, say out_of_order = true "
            "under [deploy] in the environment's TOML",
        )
    return waiting


def _refuse_drift(entry: Entry, migration: Migration | None) -> None:
    label = f"{entry.revision}_{entry.name}"
    if migration is None:
        raise Refused(
            f"revision {label} is applied to the database, but has no file",
            hint="run the version of this project that holds it; applied files are never removed",
        )
    if migration.checksum != entry.checksum:
        raise Refused(
            f"{migration.up.name} has changed since it was applied: "
            f"sha256 {entry.checksum[:12]} then, {migration.checksum[:12]} now",
            hint="bring the applied text back (git log shows it) and put the change into a new migration",
        )


def _record(
    conn: Connection,
    migration: Migration,
    kind: str,
    operation: uuid.UUID | None,
    backup: str | None,
    tolerated: Sequence[str],
    fingerprint: str | None,
) -> None:
    values = {
        "revision": migration.revision,
        "name": migration.name,
        "checksum": migration.checksum,
        "down_checksum": migration.down_checksum,
        "kind": kind,
        "operation": operation,
        "backup": backup,
        "tolerated": list(tolerated),
        "fingerprint": fingerprint,
    }
    _insert(conn, values)


def _insert(conn: Connection, values: Mapping[str, object]) -> None:
    try:
        conn.execute(query("record_revision"), values)
    except errors.UniqueViolation as error:
        raise OpsError(f"revision {values['revision']} is already in the ledger as applied") from error


def _end(conn: Connection, revisions: Collection[str], state: str, operation: uuid.UUID | None) -> None:
    values = {"revisions": list(revisions), "state": state, "operation": operation}
    rows = conn.execute(query("end_revisions"), values).fetchall()
    missing = sorted(set(revisions) - {row[0] for row in rows})
    if missing:
        raise OpsError(f"revision {', '.join(missing)} is not applied according to the ledger of {conn.info.dbname}")


def _scripts() -> list[tuple[int, Path]]:
    return [(int(path.name.split("_", 1)[0]), path) for path in sorted(_DDL.glob("*.sql"))]


def _version(conn: Connection) -> int:
    """Of the installed kg_ops; 0 where there is none."""
    if not exists(conn):
        return 0
    row = conn.execute(query("kg_ops_version")).fetchone()
    return int(row[0] or 0) if row else 0


@contextmanager
def _privileges(conn: Connection) -> Iterator[None]:
    try:
        yield
    except errors.InsufficientPrivilege as error:
        present = conn.execute(query("kg_ops_exists")).fetchone()
        raise PrivilegeMissing(
            f"role {role_of(conn)} may not create schema kg_ops in {conn.info.dbname}, where ledger and journal live",
            hint=_statement(
                "GRANT USAGE, CREATE ON SCHEMA kg_ops TO {role}"
                if present and present[0]
                else "GRANT CREATE ON DATABASE {database} TO {role}",
                conn,
            ),
        ) from error
    except errors.LockNotAvailable as error:
        raise DatabaseError("another session is installing kg_ops and holds its lock", hint="try again") from error


def _statement(template: LiteralString, conn: Connection) -> str:
    """What an administrator runs, with the names of this database and this role."""
    names = {"database": Identifier(conn.info.dbname), "role": Identifier(role_of(conn))}
    return f"an administrator runs: {SQL(template).format(**names).as_string(conn)}"
