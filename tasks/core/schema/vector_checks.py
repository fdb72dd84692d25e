"""Is there, for each vector column that a revision indexes, an index that searches can use?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from psycopg.rows import class_row
from psycopg.sql import SQL, Identifier, Literal

from sql import query
from tasks.core.postgres.connections import Connection
from tasks.core.schema.catalog import Catalog
from tasks.core.schema.execution import search_path
from tasks.core.schema.extension import MOST_INDEXED, too_wide
from tasks.core.schema.report import CheckResult, failed, ok, run_check
from tasks.core.vectors.guide import CHEAPER

# Below it the planner rightly prefers to read the whole table.
_SMALL_TABLE = 10_000  # rows


@dataclass(frozen=True)
class VectorIndex:
    """An index as found. `operator` is the distance that its operator class orders by; `rows` are the planner's."""

    table: str
    column: str
    name: str
    method: str
    operator_class: str
    usable: bool
    rows: int
    operator: str


@dataclass(frozen=True)
class Wanted:
    """A vector column that the migrations give an index, with that index's method and operator class."""

    table: str
    column: str
    dimensions: int
    method: str
    operator_class: str


def vector_indexes(conn: Connection, schema: str, tables: list[str]) -> list[VectorIndex]:
    with conn.cursor(row_factory=class_row(VectorIndex)) as cursor:
        return cursor.execute(query("vector_indexes"), {"schema": schema, "tables": tables}).fetchall()


def check_vector_indexes(conn: Connection, schema: str, expected: Catalog, present: list[str]) -> Iterator[CheckResult]:
    """A check for each indexed vector column of a table that is there. Writes nothing."""
    found = vector_indexes(conn, schema, present)
    for wanted in _wanted(expected):
        if wanted.table in present:
            name = f"index on {wanted.table}.{wanted.column}"
            indexes = [index for index in found if (index.table, index.column) == (wanted.table, wanted.column)]
            yield run_check(name, partial(_check, conn, schema, name, wanted, indexes))
    yield from _too_wide(expected, present)


def _too_wide(expected: Catalog, present: list[str]) -> Iterator[CheckResult]:
    """For information: columns whose searches no index on vector can serve."""
    for one in expected["objects"].values():
        if one["kind"] == "column" and one["table"] in present:
            type_, _, size = one["type"].partition("(")
            if type_.endswith("vector") and size.rstrip(")").isdecimal() and int(size.rstrip(")")) > MOST_INDEXED:
                name = f"width of {one['table']}.{one['name']}"
                yield ok(name, too_wide(int(size.rstrip(")")), one["name"]))


def unit_vector(dimensions: int) -> str:
    """The text of a vector of length 1."""
    return "[1" + ",0" * (dimensions - 1) + "]"


def operator_sql(operator: str) -> SQL:
    """An operator's name, as the server itself has just given it."""
    return SQL(operator)


def _wanted(expected: Catalog) -> Iterator[Wanted]:
    documents = expected["objects"].values()
    types = {(one["table"], one["name"]): one["type"] for one in documents if one["kind"] == "column"}
    for one in documents:
        if one["kind"] == "index" and one["method"] in ("hnsw", "ivfflat"):
            column, operator_class = one["keys"][0].split(" ")[:2]
            column = column.strip('"')
            size = types.get((one["table"], column), "").partition("(")[2].rstrip(")")
            if size.isdecimal():
                yield Wanted(one["table"], column, int(size), one["method"], operator_class)


def _check(conn: Connection, schema: str, name: str, wanted: Wanted, found: list[VectorIndex]) -> CheckResult:
    kind = f"{wanted.method} index with {wanted.operator_class}"
    fitting = [one for one in found if (one.method, one.operator_class) == (wanted.method, wanted.operator_class)]
    if not fitting:
        others = ", ".join(f"{one.name} ({one.method}, {one.operator_class})" for one in found)
        return failed(name, f"there is no {kind}" + (f", only {others}" if others else ""))
    usable = [one for one in fitting if one.usable]
    if not usable:
        remedy = f"DROP INDEX CONCURRENTLY {fitting[0].name}, and build it again"
        return failed(name, f"{fitting[0].name} is not valid: a concurrent build of it failed or still runs; {remedy}")
    by_default, forced, costs = _plans(conn, schema, wanted, usable[0].operator)
    names = {one.name for one in usable}
    if not names & forced:
        return failed(
            name, f"{usable[0].name} is valid, but the planner cannot use it to order by {usable[0].operator}"
        )
    rows = usable[0].rows
    if names & by_default:
        return ok(name, f"{usable[0].name} ({kind}) is valid, and searches use it")
    if rows >= _SMALL_TABLE:
        return failed(
            name,
            f"{usable[0].name} is valid, but searches in {rows:,} rows do not use it: the planner takes reading the "
            f"whole table (cost {costs[0]:,.0f}) for cheaper than the index ({costs[1]:,.0f})",
            f"ANALYZE the table; if that does not help, {CHEAPER}",
        )
    return ok(name, f"{usable[0].name} ({kind}) is valid and can be used; a table so small is searched without it")


def _plans(
    conn: Connection, schema: str, wanted: Wanted, operator: str
) -> tuple[set[str], set[str], tuple[float, float]]:
    """Indexes in the plan of a search: by default, and when the planner may not read the whole table; and what it takes
    the two to cost.
    """
    statement = query("explain_nearest").format(
        table=Identifier(schema, wanted.table),
        column=Identifier(wanted.column),
        operator=operator_sql(operator),
        vector=Literal(unit_vector(wanted.dimensions)),
    )
    with conn.transaction(force_rollback=True):
        conn.execute(query("set_migration_setting"), _setting("search_path", search_path(conn, schema)))
        by_default, dear = _indexes(conn.execute(statement).fetchone())
        # Without a sort, too: a small table could be read in its key's order and sorted for less than the index costs.
        for name in ("enable_seqscan", "enable_sort"):
            conn.execute(query("set_migration_setting"), _setting(name, "off"))
        forced, cost = _indexes(conn.execute(statement).fetchone())
        return by_default, forced, (dear, cost)


def _setting(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value, "local": True}


def _indexes(row: tuple[Any, ...] | None) -> tuple[set[str], float]:
    assert row is not None
    plan = row[0][0]["Plan"]
    return set(_names(plan)), float(plan["Total Cost"])


def _names(node: dict[str, Any]) -> Iterator[str]:
    if "Index Name" in node:
        yield node["Index Name"]
    for child in node.get("Plans", ()):
        yield from _names(child)
