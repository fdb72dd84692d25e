"""What a way back would discard: rows of tables that go, and values in columns that go."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.backup.loss import tables_in
from tasks.core.postgres.connections import Connection
from tasks.core.schema.catalog import Catalog
from tasks.core.schema.expected import Expected


def at_stake(
    conn: Connection, schema: str, expected: Expected, revision: str, *, lock: bool = False
) -> tuple[str, ...]:
    """A line for each table with rows, and each column with values of its own, that reverting `revision` drops.

    A value that equals the column's default was not written by anybody. With `lock` nobody can write meanwhile: the
    lock comes before the first look, since a snapshot taken earlier would not see who wrote last.
    """
    tables = tables_made_by(expected, revision)
    columns = columns_made_by(expected, revision)
    if lock:
        _shut_out(conn, schema, {*tables, *(table for table, _ in columns)})
    rows = count_rows(conn, schema, tables)
    found = [f"{table} with {count:,} rows" for table, count in rows.items() if count]
    for table, column in columns:
        if values := _values(conn, schema, table, column):
            found.append(f"{values:,} values of {table}.{column}")
    return tuple(found)


def tables_made_by(expected: Expected, revision: str) -> tuple[str, ...]:
    """Tables that `revision` created: what its down script may drop."""
    after, before = _around(expected, revision)
    return tuple(sorted(tables_of(after) - tables_of(before)))


def columns_made_by(expected: Expected, revision: str) -> tuple[tuple[str, str], ...]:
    """(table, column) that `revision` added to tables that were there before."""
    after, before = _around(expected, revision)
    old = tables_of(before)
    return tuple(sorted(pair for pair in columns_of(after) - columns_of(before) if pair[0] in old))


def count_rows(conn: Connection, schema: str, tables: Sequence[str]) -> dict[str, int]:
    """Rows of those of `tables` that exist."""
    present = tables_in(conn, schema)
    counted = {}
    for table in tables:
        if table in present:
            row = conn.execute(SQL("SELECT count(*) FROM {}").format(Identifier(schema, table))).fetchone()
            assert row
            counted[table] = int(row[0])
    return counted


def _shut_out(conn: Connection, schema: str, tables: Collection[str]) -> None:
    present = sorted(set(tables_in(conn, schema)) & set(tables))
    if present:
        names = SQL(", ").join(Identifier(schema, table) for table in present)
        conn.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names))


def _values(conn: Connection, schema: str, table: str, column: str) -> int:
    """Values of the column that are neither NULL nor its default; 0 where there is no such column."""
    place = Identifier(schema, table)
    found = conn.execute(query("column_default"), {"table": place.as_string(conn), "column": column}).fetchone()
    if found is None:
        return 0
    name, (default, type_name) = Identifier(column), found
    condition = SQL("{} IS NOT NULL").format(name)
    if default is not None:
        # The server's own spelling of the default and its type; *<> compares stored bytes, whatever the type. Two bare
        # ROWs would be compared column by column, for which the operator is not made: hence the casts.
        written = SQL("(ROW ({}))::record OPERATOR (pg_catalog.*<>) (ROW (({})::{}))::record").format(
            name, SQL(default), SQL(type_name)
        )
        condition = SQL("{} AND {}").format(condition, written)
    row = conn.execute(SQL("SELECT count(*) FROM {} WHERE {}").format(place, condition)).fetchone()
    assert row
    return int(row[0])


def _around(expected: Expected, revision: str) -> tuple[Catalog, Catalog]:
    revisions = list(expected.catalogs)
    return expected.catalogs[revision], expected.catalogs[revisions[revisions.index(revision) - 1]]


def tables_of(catalog: Catalog) -> set[str]:
    return {document["name"] for document in catalog["objects"].values() if document["kind"] == "table"}


def columns_of(catalog: Catalog) -> set[tuple[str, str]]:
    documents = catalog["objects"].values()
    return {(document["table"], document["name"]) for document in documents if document["kind"] == "column"}
