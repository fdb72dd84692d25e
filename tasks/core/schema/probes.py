"""Trying our tables out: rows are inserted, refused, found, changed and deleted, all in one transaction that is always
rolled back. No sequence moves, no row but the probe's own is locked, and it waits for nobody longer than a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Identifier, Literal

from sql import query
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.schema.execution import search_path
from tasks.core.schema.probe_rows import Column, ProbeTable, Row, Unique, probe_tables
from tasks.core.schema.report import CheckResult, Status, failed, ok, skipped
from tasks.core.schema.vector_checks import VectorIndex, operator_sql, vector_indexes

ACCESS = "read and write"
UNIQUE = "unique constraints"
SEARCH = "similarity search"
TRIGGERS = "updated_at triggers"
NAMES = (ACCESS, UNIQUE, SEARCH, TRIGGERS)

# A vector comes back from the index in single precision.
_NEARLY_ZERO = 1e-4


@dataclass(frozen=True)
class _Finding:
    """What one probe of one table showed; those of one `name` become one check."""

    name: str
    status: Status
    detail: str


class _NoRowError(Exception):
    """No valid row could be made up for a table."""


def run_probes(conn: Connection, schema: str, tables: Sequence[str]) -> tuple[CheckResult, ...]:
    """Probe these tables. Writes, and takes everything back. Raises DatabaseError where the connection is lost."""
    findings: list[_Finding] = []
    with database_errors("probing the tables"), conn.transaction(force_rollback=True):
        conn.execute(query("probe_session"), {"search_path": search_path(conn, schema)})
        conn.execute(query("constraints_at_once"))
        indexes = vector_indexes(conn, schema, list(tables))
        for name in tables:
            findings += _probe(conn, schema, name, indexes)
    return tuple(_merged(name, [one for one in findings if one.name == name]) for name in NAMES)


def skipped_probes(reason: str) -> tuple[CheckResult, ...]:
    return tuple(skipped(name, reason) for name in NAMES)


def _merged(name: str, findings: Sequence[_Finding]) -> CheckResult:
    """Failures are told in full; where there are none, what was found, or why nothing was looked at."""
    for status, make in (("failed", failed), ("ok", ok), ("skipped", skipped)):
        details = [one.detail for one in findings if one.status == status]
        if details:
            aside = [one.detail for one in findings if one.status == "skipped"] if status == "ok" else []
            return make(name, "; ".join([*details, *aside]))
    return skipped(name, "no table has any")


def _probe(conn: Connection, schema: str, name: str, indexes: Sequence[VectorIndex]) -> Iterator[_Finding]:
    """All probes of one table, after a first row of its own."""
    try:
        with conn.transaction():
            (table,) = probe_tables(conn, schema, [name])
            row = table.row(vectors=True)
            _insert(conn, table, row)
    except (psycopg.Error, _NoRowError) as error:
        yield from _unprobed(conn, name, error)
        return
    yield from _uniques(conn, table, row)
    yield from _searches(conn, table, row, indexes)
    yield _tried(conn, TRIGGERS, name, partial(_trigger, conn, table, row))
    yield _tried(conn, ACCESS, name, partial(_delete, conn, table, row))


def _unprobed(conn: Connection, name: str, error: Exception) -> Iterator[_Finding]:
    if isinstance(error, _NoRowError):
        yield from (_Finding(each, "skipped", f"{name}: {error}") for each in NAMES)
        return
    if conn.broken:
        raise error
    yield _Finding(ACCESS, "failed", _complaint(name, error))
    yield from (_Finding(each, "skipped", f"{name}: no row could be written") for each in NAMES if each != ACCESS)


def _insert(conn: Connection, table: ProbeTable, row: Row) -> None:
    try:
        conn.execute(table.insert(row))
    except (errors.IntegrityError, errors.DataError) as error:
        # A constraint of someone's own wish, that a made-up value cannot meet.
        raise _NoRowError(f"no row could be made up: {error.diag.message_primary}") from error


def _tried(conn: Connection, name: str, table: str, probe: Callable[[], _Finding]) -> _Finding:
    """Its writes are undone at once; an error of the server's is what failed."""
    try:
        with conn.transaction(force_rollback=True):
            return probe()
    except psycopg.Error as error:
        if conn.broken:
            raise
        return _Finding(name, "failed", _complaint(table, error))


def _complaint(table: str, error: Exception) -> str:
    assert isinstance(error, psycopg.Error)
    remedy = {
        "42501": "GRANT SELECT, INSERT, UPDATE, DELETE; where row security filters this role, BYPASSRLS or the owner",
        "55P03": "another session holds it: see kg check",
        "25006": "is this a standby, or default_transaction_read_only set?",
    }.get(error.sqlstate or "")
    said = f"{table}: {error.diag.message_primary or error}"
    return f"{said} ({remedy})" if remedy else said


def _uniques(conn: Connection, table: ProbeTable, row: Row) -> Iterator[_Finding]:
    for unique in table.uniques:
        yield _tried(conn, UNIQUE, table.name, partial(_duplicate, conn, table, row, unique))


def _duplicate(conn: Connection, table: ProbeTable, row: Row, unique: Unique) -> _Finding:
    """A row that equals the first one in the columns of this constraint, and in no other unique one."""
    label = f"{table.name} ({', '.join(unique.columns)})"
    twin = {**table.row(), **{name: row[name] for name in unique.columns}}
    try:
        with conn.transaction():
            conn.execute(table.insert(twin))
    except errors.UniqueViolation as error:
        if error.diag.constraint_name == unique.name:
            return _Finding(UNIQUE, "ok", f"{label} refuses a duplicate")
        return _Finding(UNIQUE, "skipped", f"{label}: {error.diag.constraint_name} refused the row first")
    return _Finding(UNIQUE, "failed", f"{label} accepted a duplicate: {unique.name} does not work, REINDEX it")


def _searches(conn: Connection, table: ProbeTable, row: Row, indexes: Sequence[VectorIndex]) -> Iterator[_Finding]:
    for column in table.vectors:
        operators = [one.operator for one in indexes if (one.table, one.column) == (table.name, column.name)]
        yield _tried(conn, SEARCH, table.name, partial(_search, conn, table, row, column, (*operators, "<=>")[0]))


def _search(conn: Connection, table: ProbeTable, row: Row, column: Column, operator: str) -> _Finding:
    """Through the index, where there is one: the planner may not read the table instead."""
    label = f"{table.name}.{column.name}"
    if len(table.key) != 1:
        return _Finding(SEARCH, "skipped", f"{label}: the table has no key of one column")
    conn.execute(query("set_migration_setting"), {"name": "enable_seqscan", "value": "off", "local": True})
    statement = query("nearest").format(
        key=Identifier(table.key[0]),
        table=table.identifier,
        column=Identifier(column.name),
        operator=operator_sql(operator),
        vector=Literal(row[column.name]),
    )
    found = conn.execute(statement).fetchone()
    nearest = -1.0 if operator == "<#>" else 0.0  # the negative inner product of a vector of length 1 with itself
    if found is None or found[0] != row[table.key[0]] or abs(found[1] - nearest) > _NEARLY_ZERO:
        what = "nothing" if found is None else f"{table.key[0]} {found[0]} at distance {found[1]:.4f}"
        return _Finding(SEARCH, "failed", f"{label}: a row just inserted was not found by its own vector, but {what}")
    return _Finding(SEARCH, "ok", f"{label} finds an inserted row at distance {abs(found[1] - nearest):.1g}")


def _trigger(conn: Connection, table: ProbeTable, row: Row) -> _Finding:
    if "updated_at" not in {column.name for column in table.columns} or not table.key:
        return _Finding(TRIGGERS, "skipped", f"{table.name} has no updated_at, or no key")
    changed = conn.execute(query("touch_probe").format(table=table.identifier, where=table.where(row))).fetchone()
    if changed is None or not changed[0]:
        return _Finding(TRIGGERS, "failed", f"{table.name}: an update leaves updated_at as it was")
    return _Finding(TRIGGERS, "ok", f"{table.name} keeps it true")


def _delete(conn: Connection, table: ProbeTable, row: Row) -> _Finding:
    """Deleting reads as well: with this, the role has done all that an application does."""
    where = table.where(row) if table.key else SQL("false")
    gone = conn.execute(query("delete_probe").format(table=table.identifier, where=where)).rowcount
    if table.key and gone != 1:
        return _Finding(ACCESS, "failed", f"{table.name}: the row just inserted could not be deleted")
    return _Finding(ACCESS, "ok", table.name)
