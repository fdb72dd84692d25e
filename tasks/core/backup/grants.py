"""Who may do what with our tables now may do so after a restore, also where the backup is older than the grant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import class_row
from psycopg.sql import SQL, Composed, Identifier

from sql import query
from tasks.core.postgres.connections import Connection


@dataclass(frozen=True)
class Grant:
    """One privilege on a table, on a column of it, or on a sequence that fills one. `grantee` None is PUBLIC."""

    kind: str
    name: str
    column: str | None
    privilege: str
    grantable: bool
    grantee: str | None

    def statement(self, schema: str) -> Composed:
        return SQL("GRANT {}{} ON {} {} TO {}{}").format(
            SQL(self.privilege),  # the server's own word
            SQL(" ({})").format(Identifier(self.column)) if self.column else SQL(""),
            SQL(self.kind),
            Identifier(schema, self.name),
            Identifier(self.grantee) if self.grantee else SQL("PUBLIC"),
            SQL(" WITH GRANT OPTION" if self.grantable else ""),
        )


def grants_on(conn: Connection, schema: str, tables: Sequence[str], staged: str) -> list[Grant]:
    """What others are granted on these tables, as far as the objects are in schema `staged` too."""
    with conn.cursor(row_factory=class_row(Grant)) as cursor:
        values = {"schema": schema, "tables": list(tables), "staged": staged}
        return cursor.execute(query("grants_on_tables"), values).fetchall()


def grant_again(conn: Connection, schema: str, grants: Sequence[Grant]) -> None:
    for grant in grants:
        conn.execute(grant.statement(schema))
