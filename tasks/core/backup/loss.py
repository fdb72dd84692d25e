"""What a restore would discard: the live tables and the restored ones side by side, by primary key and content."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier

from sql import query
from tasks.core.postgres.connections import Connection


@dataclass(frozen=True)
class TableLoss:
    """Rows of one table: written since the backup, deleted since, changed since."""

    table: str
    inserted: int
    deleted: int
    updated: int

    def __bool__(self) -> bool:
        return bool(self.inserted or self.deleted or self.updated)

    def __str__(self) -> str:
        return f"{self.table}: {self.inserted} inserted, {self.deleted} deleted, {self.updated} updated"


def loss_report(conn: Connection, live_schema: str, staged_schema: str) -> tuple[TableLoss, ...]:
    """One entry for each table that would lose something; empty when the restore discards nothing.

    Exact where the two tables share their primary key. A live table that the backup does not have loses all its rows.
    """
    live = _tables(conn, live_schema)
    staged = _tables(conn, staged_schema)
    found = [_compare(conn, table, live_schema, staged_schema, table in staged) for table in live]
    return tuple(loss for loss in found if loss)


def tables_in(conn: Connection, schema: str) -> tuple[str, ...]:
    return tuple(sorted(_tables(conn, schema)))


def _tables(conn: Connection, schema: str) -> set[str]:
    return {row[0] for row in conn.execute(query("tables_in_schema"), {"schema": schema})}


def _compare(conn: Connection, table: str, live_schema: str, staged_schema: str, both: bool) -> TableLoss:
    live, staged = Identifier(live_schema, table), Identifier(staged_schema, table)
    if not both:
        return TableLoss(table, _count(conn, live), 0, 0)
    names = {"live": live.as_string(conn), "staged": staged.as_string(conn)}
    columns = conn.execute(query("live_columns"), names).fetchall()
    key = [name for name, is_key, shared in columns if is_key and shared]
    if not key:
        # Without a key rows cannot be told apart: all count as written since.
        return TableLoss(table, _count(conn, live), _count(conn, staged), 0)
    row = conn.execute(
        query("compare_rows").format(
            key=_names(key),
            columns=_names([name for name, _, shared in columns if shared]),
            more=_names([name for name, _, shared in columns if not shared]),
            live=live,
            staged=staged,
        )
    ).fetchone()
    assert row
    return TableLoss(table, *row)


def _names(columns: list[str]) -> Composable:
    return SQL(", ").join(map(Identifier, columns)) if columns else SQL("NULL")


def _count(conn: Connection, table: Identifier) -> int:
    row = conn.execute(SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    assert row
    return int(row[0])
