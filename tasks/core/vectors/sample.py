"""A small copy of a table's vectors, to build indexes on and to time them; and the statement that builds one."""

from __future__ import annotations

from dataclasses import replace

from psycopg.sql import SQL, Composed, Identifier, Literal

from sql import query
from tasks.core.postgres.connections import Connection
from tasks.core.vectors.indexes import Column

_NAME = "kg_sample"


def copy_rows(conn: Connection, column: Column, rows: int) -> tuple[Column, int]:
    """At most `rows` vectors in a temporary table: its column, and how many they are. Gone with the session, or with
    the transaction that made it when that is rolled back.
    """
    statement = query("copy_sample").format(copy=Identifier(_NAME), **column.words, rows=Literal(rows))
    copied = conn.execute(statement).rowcount
    return replace(column, schema="pg_temp", table=_NAME, language=False), copied


def create_index(
    column: Column,
    name: str,
    operator_class: str,
    parameters: tuple[int, int],
    *,
    concurrently: bool = False,
    tablespace: str | None = None,
) -> Composed:
    """CREATE INDEX with `parameters` (m, ef_construction)."""
    return query("create_index").format(
        concurrently=SQL("CONCURRENTLY" if concurrently else ""),
        name=Identifier(name),
        **column.words,
        operator_class=Identifier(operator_class),
        m=Literal(parameters[0]),
        ef_construction=Literal(parameters[1]),
        tablespace=SQL("TABLESPACE {}").format(Identifier(tablespace)) if tablespace else SQL(""),
    )
