"""The vector indexes of our tables: those that the revision has, matched with what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from psycopg.rows import class_row
from psycopg.sql import Composable, Identifier

from sql import query
from tasks.core.errors import UsageError
from tasks.core.operations.plan import known_expected
from tasks.core.postgres.connections import Connection, vector_extension
from tasks.core.schema import ledger
from tasks.core.schema.catalog import Catalog
from tasks.core.settings import Settings

# What a re-index calls its indexes while they wait: to take the old one's name, and to be dropped.
_WORKING = re.compile(r"_kg_(?:new|old)_[0-9a-f]{8}$")
_NAME_BYTES = 63

# What searches order by; other operator classes cannot serve them.
OPERATOR_CLASS = "vector_cosine_ops"


@dataclass(frozen=True)
class HnswIndex:
    """An index as found. `rows_at_build` is what the ledger knows."""

    name: str
    oid: int
    table_name: str
    column_name: str
    type_name: str
    dimensions: int
    operator_class: str
    valid: bool
    size_bytes: int
    m: int
    ef_construction: int
    partial: bool
    comment: str | None
    tablespace: str | None
    """None for the database's own."""
    being_built: bool
    rows_at_build: int | None


@dataclass(frozen=True)
class Column:
    """A column of vectors, and where the operators for it live."""

    schema: str
    table: str
    name: str
    dimensions: int
    extension: str
    language: bool
    """Whether the table says each row's language."""

    @property
    def words(self) -> dict[str, Composable]:
        """For `query(...).format`."""
        return {
            "table": Identifier(self.schema, self.table),
            "column": Identifier(self.name),
            "extension": Identifier(self.extension),
        }


@dataclass(frozen=True)
class Target:
    """An index that searches should have: `found` is None where it is not there. `of_revision` is False for one that
    no migration makes: somebody's own.
    """

    name: str
    column: Column
    found: HnswIndex | None
    operator_class: str
    m: int
    ef_construction: int
    of_revision: bool


def hnsw_indexes(conn: Connection, settings: Settings) -> list[HnswIndex]:
    """Those on columns of our tables, with their oddities: invalid ones, and those that a re-index left."""
    values = {"schema": settings.database.schema_name, "tables": sorted(known_expected(conn, settings).scope)}
    with conn.cursor(row_factory=class_row(HnswIndex)) as cursor:
        return cursor.execute(query("hnsw_indexes"), values).fetchall()


def targets(conn: Connection, settings: Settings) -> tuple[Target, ...]:
    """The revision's vector indexes and somebody's own, in the order of their names."""
    catalog = _catalog(conn, settings)
    extension = vector_extension(conn).schema or settings.database.schema_name
    found = [index for index in hnsw_indexes(conn, settings) if not is_working_name(index.name)]
    wanted = list(_expected(catalog, settings.database.schema_name, extension))
    matched = [_matched(one, found) for one in wanted]
    taken = {one.found.oid for one in matched if one.found}
    own = [_own(index, catalog, settings, extension) for index in found if index.oid not in taken]
    return tuple(sorted((*matched, *own), key=lambda target: target.name))


def target_named(targets: tuple[Target, ...], name: str) -> Target:
    """Raises UsageError with the names that there are."""
    for target in targets:
        if target.name == name:
            return target
    known = ", ".join(target.name for target in targets) or "none"
    raise UsageError(f"there is no vector index {name!r}", hint=f"the vector indexes are: {known}")


def is_working_name(name: str) -> bool:
    return bool(_WORKING.search(name))


def working_name(name: str, kind: str, token: str) -> str:
    """`name` with a mark of this re-index at its end, at most 63 bytes. `kind` is "new" or "old", `token` 8 hex."""
    mark = f"_kg_{kind}_{token}"
    made = name.encode()[: _NAME_BYTES - len(mark)].decode(errors="ignore") + mark
    assert is_working_name(made)
    return made


def _catalog(conn: Connection, settings: Settings) -> Catalog:
    entries = ledger.entries(conn) if ledger.exists(conn) else ()
    catalogs = known_expected(conn, settings).catalogs
    # The newest that has a file: check says which have none.
    newest = next((one.revision for one in reversed(entries) if one.revision in catalogs), list(catalogs)[-1])
    return catalogs[newest]


def _expected(catalog: Catalog, schema: str, extension: str) -> Iterator[Target]:
    for document in catalog["objects"].values():
        if document["kind"] != "index" or document["method"] != "hnsw":
            continue
        name, _, operator_class = document["keys"][0].partition(" ")
        options = dict(option.split("=", 1) for option in document["options"])
        column = _column(catalog, schema, document["table"], name.strip('"'), extension)
        if column:
            yield Target(
                name=document["name"],
                column=column,
                found=None,
                operator_class=operator_class.split(" ")[0],
                m=int(options["m"]),
                ef_construction=int(options["ef_construction"]),
                of_revision=True,
            )


def _column(catalog: Catalog, schema: str, table: str, name: str, extension: str) -> Column | None:
    columns = {
        document["name"]: document
        for document in catalog["objects"].values()
        if document["kind"] == "column" and document["table"] == table
    }
    size = re.search(r"\((\d+)\)$", columns[name]["type"]) if name in columns else None
    return Column(schema, table, name, int(size[1]), extension, "language" in columns) if size else None


def _matched(wanted: Target, found: list[HnswIndex]) -> Target:
    """The index of that name; else (adopted tables may have others) the first on the column, a fitting one before."""

    def order(index: HnswIndex) -> tuple[Any, ...]:
        return index.name != wanted.name, index.operator_class != wanted.operator_class, not index.valid, index.name

    on_column = [
        index
        for index in found
        if (index.table_name, index.column_name) == (wanted.column.table, wanted.column.name)
        and not index.name.endswith(("_ccnew", "_ccold"))
    ]
    best = min(on_column, key=order, default=None)
    return replace(wanted, found=best, name=best.name if best else wanted.name)


def _own(index: HnswIndex, catalog: Catalog, settings: Settings, extension: str) -> Target:
    schema = settings.database.schema_name
    column = _column(catalog, schema, index.table_name, index.column_name, extension)
    return Target(
        name=index.name,
        column=column or Column(schema, index.table_name, index.column_name, index.dimensions, extension, False),
        found=index,
        operator_class=index.operator_class,
        m=index.m,
        ef_construction=index.ef_construction,
        of_revision=False,
    )
