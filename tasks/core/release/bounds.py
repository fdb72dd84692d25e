"""No statement of a migration runs past the end of its window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sql import query
from tasks.core.postgres.connections import Connection
from tasks.core.schema.scripts import Script
from tasks.core.schema.statements import Statement
from tasks.core.settings import DatabaseSettings


def bounded(database: DatabaseSettings, until: datetime | None) -> DatabaseSettings:
    """`database` with a statement_timeout that ends at `until` at the latest (None: as it is)."""
    if until is None:
        return database
    left = max(until - datetime.now(UTC), timedelta(milliseconds=1))  # 0 would be no limit at all
    return database.model_copy(update={"statement_timeout": min(database.statement_timeout, left)})


class WindowEnd:
    """Looks on while a script runs, and gives each statement no more than is left of the window."""

    def __init__(self, database: DatabaseSettings, until: datetime) -> None:
        self.database, self.until = database, until

    def before(self, conn: Connection, script: Script) -> None:
        self._limit(conn, local=script.transactional)

    def after(self, conn: Connection, statement: Statement, seconds: float, rows: int) -> None:
        self._limit(conn, local=not conn.autocommit)

    def _limit(self, conn: Connection, *, local: bool) -> None:
        limit = bounded(self.database, self.until).statement_timeout
        value = f"{int(limit.total_seconds() * 1000)}ms"
        conn.execute(query("set_migration_setting"), {"name": "statement_timeout", "value": value, "local": local})
