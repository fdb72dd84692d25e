"""What the tables of the knowledge graph are on a server, as one plain document that can be compared and hashed.

    {"version": 1, "objects": {"table code_embeddings": {...}, "column code_embeddings.embedding": {...}, ...}}

It holds our tables and everything that hangs on them, and nothing that differs between two databases made alike: no
OIDs, column numbers, dropped columns, sequence values, gathered statistics, extension-owned objects or schema names.
Owners are left out: they differ between environments and in a restored copy, so a migration cannot say who they should
be. What they may do does not differ: in the privileges an object's owner is called "owner".

Everything is read with a search_path of our schema and the vector extension's, so that the server writes the names of
both without a schema, whatever they are called and even where they are one. Text is never searched for schema names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed

from sql import query
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.schema import objects
from tasks.core.schema.normalise import Expressions, Row, Wanted, normalise_expressions

VERSION = 1


class Catalog(TypedDict):
    """Plain JSON: what objects.py says of each object, by the object's name for people."""

    version: int
    objects: dict[str, dict[str, Any]]


EMPTY: Catalog = {"version": VERSION, "objects": {}}


@dataclass(frozen=True)
class _Rows:
    """What the queries of catalog.sql answered, a list each."""

    relations: list[Row]
    columns: list[Row]
    constraints: list[Row]
    indexes: list[Row]
    triggers: list[Row]
    functions: list[Row]
    policies: list[Row]
    sequences: list[Row]
    statistics: list[Row]
    rules: list[Row]
    privileges: list[Row]


def read_catalog(conn: Connection, schema: str, names: Collection[str] | None = None) -> Catalog:
    """The document of the tables, views, functions and free sequences in `schema`: all, or those called `names`, with
    what hangs on them. Reads only, in a transaction (a savepoint, where one is open) that is always rolled back, so
    that the session's settings stay as they were. Raises DatabaseError.
    """
    with database_errors(f"reading the catalog of schema {schema}"), conn.transaction(force_rollback=True):
        conn.execute(query("catalog_session"), {"schema": schema})
        ours = {str(row[0]) for row in conn.execute(query("catalog_schemas"), {"schema": schema})}
        rows = _read_rows(conn, schema, None if names is None else sorted(names))
        expressions = normalise_expressions(conn, _wanted(rows), rows.columns)
    return {"version": VERSION, "objects": _documents(rows, expressions, ours)}


def fingerprint(catalog: Catalog) -> str:
    """`<version>:<sha256>`: equal for equal documents."""
    text = json.dumps(catalog, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{catalog['version']}:{hashlib.sha256(text.encode()).hexdigest()}"


def _read_rows(conn: Connection, schema: str, names: list[str] | None) -> _Rows:
    values: dict[str, Any] = {"schema": schema, "names": names}

    def fetch(name: str, statement: SQL | Composed | None = None) -> list[Row]:
        with conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement or query(f"catalog_{name}"), values).fetchall()

    version = conn.info.server_version
    relations = fetch("relations")
    values["tables"] = _oids(relations)
    triggers = fetch("triggers")
    values["functions"] = [row["_function"] for row in triggers]
    functions, sequences = fetch("functions"), fetch("sequences")
    values |= {"functions": _oids(functions), "relations": _oids(relations) + _oids(sequences)}
    found = {
        "columns": fetch("columns", _since(version, 14, "columns", compression="a.attcompression")),
        "indexes": fetch("indexes", _since(version, 15, "indexes", nulls_not_distinct="x.indnullsnotdistinct")),
    }
    known = {"relations": relations, "triggers": triggers, "functions": functions, "sequences": sequences, **found}
    rest = {field.name: fetch(field.name) for field in fields(_Rows) if field.name not in known}
    return _Rows(**known, **rest)


def _since(version: int, major: int, name: str, **column: str) -> Composed:
    """A query with a column of the system catalog that came with `major`: NULL before."""
    ((placeholder, expression),) = column.items()
    text = SQL(expression) if version >= major * 10000 else SQL("NULL")
    return query(f"catalog_{name}").format(**{placeholder: text})


def _oids(rows: list[Row]) -> list[int]:
    return [row["_oid"] for row in rows]


def _wanted(rows: _Rows) -> set[Wanted]:
    """Every expression in the rows, with the table that it reads."""
    texts = [(row["_oid"], row["_default"]) for row in rows.columns if not row["_own_sequence"]]
    texts += [(row["_oid"], row["_check"]) for row in (*rows.constraints, *rows.policies)]
    texts += [(row["_oid"], row["_using"]) for row in rows.policies]
    texts += [(row["_oid"], row["_predicate"]) for row in rows.indexes]
    texts += [(row["_oid"], key["text"]) for row in rows.indexes for key in row["_keys"] if key["expression"]]
    wanted = {Wanted(table, text) for table, text in texts if text is not None}
    return wanted | {Wanted(row["_oid"], row["_when"], trigger=True) for row in rows.triggers if row["_when"]}


def _documents(rows: _Rows, expressions: Expressions, ours: set[str]) -> dict[str, dict[str, Any]]:
    found = [objects.relation(row, rows.columns) for row in rows.relations]
    found += [objects.column(row, expressions) for row in rows.columns]
    found += [objects.constraint(row, expressions) for row in rows.constraints]
    found += [objects.index(row, expressions) for row in rows.indexes]
    found += [objects.trigger(row, expressions) for row in rows.triggers]
    found += [objects.function(row, ours) for row in rows.functions]
    found += [objects.policy(row, expressions) for row in rows.policies]
    found += [objects.sequence(row) for row in rows.sequences]
    found += [objects.hanging("statistics", row) for row in rows.statistics]
    found += [objects.hanging("rule", row) for row in rows.rules]
    holders = zip((*rows.relations, *rows.sequences, *rows.functions), _holders(rows), strict=True)
    found += [objects.privileges(holder, _of(rows.privileges, row["_oid"])) for row, holder in holders]
    return dict(sorted(found))


def _holders(rows: _Rows) -> list[objects.Named]:
    """The objects that privileges are granted on, in the order of their rows."""
    relations = [objects.relation(row, []) for row in rows.relations]
    sequences = [objects.sequence(row) for row in rows.sequences]
    return [*relations, *sequences, *(objects.function(row, set()) for row in rows.functions)]


def _of(rows: list[Row], oid: int) -> list[Row]:
    return [row for row in rows if row["_oid"] == oid]
