"""What a way down must give back besides the form: the rows of every table, and the values of columns that the way up
drops. On the restored copy nobody else writes, so that the comparison is exact.
"""

from __future__ import annotations

from collections.abc import Mapping

from psycopg.sql import Identifier

from sql import query
from tasks.core.operations.stakes import columns_of, count_rows, tables_of
from tasks.core.postgres.connections import Connection
from tasks.core.schema.expected import Expected

Census = Mapping[str, tuple[int, str]]  # rows or values, and a hash of the values, by "table" or "table.column"


def census(conn: Connection, schema: str, expected: Expected, revision: str) -> Census:
    """Of what is there before `revision`."""
    revisions = list(expected.catalogs)
    before = expected.catalogs[revisions[revisions.index(revision) - 1]]
    after = expected.catalogs[revision]
    found: dict[str, tuple[int, str]] = {
        table: (rows, "") for table, rows in count_rows(conn, schema, sorted(tables_of(before))).items()
    }
    stays = tables_of(before) & tables_of(after)
    for table, column in sorted(columns_of(before) - columns_of(after)):
        if table in stays:
            place, name = Identifier(schema, table), Identifier(column)
            row = conn.execute(query("column_values").format(table=place, column=name)).fetchone()
            assert row
            found[f"{table}.{column}"] = (int(row[0]), str(row[1]))
    return found


def lost(before: Census, after: Census) -> tuple[str, ...]:
    """A line for each that is not as it was: rows that are gone or too many, values that are others."""
    lines = []
    for name, (count, content) in before.items():
        now, values = after.get(name, (0, ""))
        kind = "values" if content else "rows"
        if now != count:
            lines.append(f"{name} had {count:,} {kind}, and has {now:,}")
        elif values != content:
            lines.append(f"{name} has other values")
    return tuple(lines)
