"""Parameters that a re-index chose for a vector index, in place of its migration's: the ledger knows them, and
verification takes them for what the revision says. The same parameters set by hand are a difference.
"""

from __future__ import annotations

from typing import Any

from sql import query
from tasks.core.postgres.connections import Connection
from tasks.core.schema import ledger
from tasks.core.schema.catalog import Catalog


def as_expected(conn: Connection, expected: Catalog, actual: Catalog) -> Catalog:
    """`actual`, with the expected options of each index that has exactly those that a re-index gave it."""
    chosen = _chosen(conn) if ledger.exists(conn) else []
    objects = dict(actual["objects"])
    for key, document in objects.items():
        if document["kind"] == "index" and (document["name"], document["options"]) in chosen:
            objects[key] = _with_expected_options(document, expected)
    return {**actual, "objects": objects}


def _with_expected_options(document: dict[str, Any], expected: Catalog) -> dict[str, Any]:
    for other in expected["objects"].values():
        same = ("kind", "table", "method", "keys", "predicate")
        if all(other.get(name) == document.get(name) for name in same):
            return {**document, "options": other["options"]}
    return document


def _chosen(conn: Connection) -> list[tuple[str, list[str]]]:
    """Index and options, as the catalog document has them."""
    rows = conn.execute(query("chosen_parameters")).fetchall()
    return [(name, [f"ef_construction={ef_construction}", f"m={m}"]) for name, m, ef_construction in rows]
