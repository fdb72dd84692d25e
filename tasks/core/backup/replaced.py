"""What restores have put aside: schemas kg_replaced_<time>, or databases of that name where the whole one was restored,
with an age and a size of their own. They go only after a newer backup was proved, and only where nothing of others
hangs on them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.backup.loss import tables_in
from tasks.core.backup.manifest import Backup
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.progress import note
from tasks.core.settings import RetentionSettings

_DATABASE = "database "
_NAME = re.compile(r"kg_replaced_(\d{8}T\d{6}Z)", re.ASCII)


@dataclass(frozen=True)
class Replaced:
    """A schema of replaced tables, or a replaced `database`; `dependents` are others' objects on them."""

    name: str
    at: datetime
    size_bytes: int
    dependents: tuple[str, ...] = ()
    database: bool = False

    @property
    def label(self) -> str:
        return f"{_DATABASE}{self.name}" if self.database else self.name

    @property
    def what(self) -> str:
        return "a replaced database" if self.database else "replaced tables"


def mark_of(database: str) -> str:
    """The beginning of a replaced database's comment: whose place another one took."""
    return f"kg: replaced in the place of {database} by backup "


def find_replaced(conn: Connection) -> tuple[Replaced, ...]:
    """Oldest first. A schema that is only named alike is none of ours."""
    found = []
    with database_errors("looking for replaced tables"):
        for schema, size in conn.execute(query("replaced_schemas")):
            if at := _time_of(schema):
                values = {"schema": schema, "tables": list(tables_in(conn, schema))}
                dependents = tuple(row[0] for row in conn.execute(query("foreign_dependents"), values))
                found.append(Replaced(schema, at, int(size), dependents))
    return tuple(found)


def find_replaced_databases(conn: Connection) -> tuple[Replaced, ...]:
    """Those that this very database took the place of, oldest first: ours to drop, closed, and so marked."""
    with database_errors("looking for replaced databases"):
        rows = conn.execute(query("replaced_databases"), {"mark": mark_of(conn.info.dbname)}).fetchall()
    return tuple(Replaced(name, at, int(size), database=True) for name, size in rows if (at := _time_of(name)))


def _time_of(name: str) -> datetime | None:
    match = _NAME.fullmatch(name)
    return datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if match else None


def reason_to_keep(replaced: Replaced, own: Sequence[Backup], policy: RetentionSettings, now: datetime) -> str:
    """Pure; empty when it may go. `own` are the backups of this very database."""
    if now - replaced.at < timedelta(days=policy.replaced_days):
        return f"{replaced.what}, not older than {policy.replaced_days} days"
    if not any(backup.proved and backup.created > replaced.at for backup in own):
        return f"{replaced.what}, and no newer backup is proved"
    if replaced.dependents:
        return f"{replaced.what}, which others hang on: {'; '.join(replaced.dependents)}"
    return ""


def drop_replaced(conn: Connection, label: str, guard: Callable[[Connection], None] | None) -> None:
    """Drop it, unless something of others has come to hang on it meanwhile. `guard` is asked before the commit; for a
    database, which is dropped outside any transaction, just before.
    """
    if label.startswith(_DATABASE):
        _drop_database(conn, label.removeprefix(_DATABASE), guard)
    else:
        _drop_schema(conn, label, guard)
    note(f"dropped {label}")


def _drop_database(conn: Connection, name: str, guard: Callable[[Connection], None] | None) -> None:
    if name not in [each.name for each in find_replaced_databases(conn)]:
        return
    if guard:
        with conn.transaction():
            guard(conn)
    with database_errors(f"dropping the replaced database {name}"):
        conn.execute(SQL("DROP DATABASE {}").format(Identifier(name)))


def _drop_schema(conn: Connection, schema: str, guard: Callable[[Connection], None] | None) -> None:
    with database_errors(f"dropping the replaced tables in {schema}"), conn.transaction():
        if any(each.name == schema and each.dependents for each in find_replaced(conn)):
            return
        conn.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))
        if guard:
            guard(conn)
