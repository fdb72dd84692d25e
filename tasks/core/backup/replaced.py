"""What restores have put aside: schemas kg_replaced_<time>, with an age and a size of their own. They go only after a
newer backup was proved, and only where nothing of others hangs on them.
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

_NAME = re.compile(r"kg_replaced_(\d{8}T\d{6}Z)", re.ASCII)


@dataclass(frozen=True)
class Replaced:
    """A schema of replaced tables; `dependents` are others' objects on them."""

    schema: str
    at: datetime
    size_bytes: int
    dependents: tuple[str, ...]


def find_replaced(conn: Connection) -> tuple[Replaced, ...]:
    """Oldest first. A schema that is only named alike is none of ours."""
    found = []
    with database_errors("looking for replaced tables"):
        for schema, size in conn.execute(query("replaced_schemas")):
            if match := _NAME.fullmatch(schema):
                at = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                values = {"schema": schema, "tables": list(tables_in(conn, schema))}
                dependents = tuple(row[0] for row in conn.execute(query("foreign_dependents"), values))
                found.append(Replaced(schema, at, int(size), dependents))
    return tuple(found)


def reason_to_keep(replaced: Replaced, own: Sequence[Backup], policy: RetentionSettings, now: datetime) -> str:
    """Pure; empty when it may go. `own` are the backups of this very database."""
    if now - replaced.at < timedelta(days=policy.replaced_days):
        return f"replaced tables, not older than {policy.replaced_days} days"
    if not any(backup.proved and backup.created > replaced.at for backup in own):
        return "replaced tables, and no newer backup is proved"
    if replaced.dependents:
        return f"replaced tables, which others hang on: {'; '.join(replaced.dependents)}"
    return ""


def drop_replaced(conn: Connection, schema: str, guard: Callable[[Connection], None] | None) -> None:
    """Drop it, unless something of others has come to hang on it meanwhile. `guard` is asked before the commit."""
    with database_errors(f"dropping the replaced tables in {schema}"), conn.transaction():
        if any(each.schema == schema and each.dependents for each in find_replaced(conn)):
            return
        conn.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))
        if guard:
            guard(conn)
    note(f"dropped {schema}")
