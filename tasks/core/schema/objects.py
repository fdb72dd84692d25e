"""From a row of catalog.sql to an object of the document: its name for people, and what is to be compared.

Each document has `kind`, `table` (None where it hangs on none) and `name`; the rest is what it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, TypeAlias

from tasks.core.schema.normalise import Expressions, Row, Wanted, function_settings, grants, index_options

Named: TypeAlias = tuple[str, dict[str, Any]]

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")
_ORDERS = {0: "", 1: " DESC NULLS LAST", 2: " NULLS FIRST", 3: " DESC"}


def word(name: str) -> str:
    """An identifier as people write it: quoted where it must be."""
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def relation(row: Row, columns: Iterable[Row]) -> Named:
    """`columns` are in their order; what each is stands in a document of its own."""
    kind = "table" if row["type"] == "partitioned table" else row["type"]
    names = [column["name"] for column in columns if column["_oid"] == row["_oid"]]
    return f"{kind} {word(row['name'])}", {**_plain(row), "kind": kind, "table": row["name"], "columns": names}


def column(row: Row, expressions: Expressions) -> Named:
    default = "nextval(its own sequence)" if row["_own_sequence"] else _expression(row, "_default", expressions)
    return _on_table("column", row, default=default)


def constraint(row: Row, expressions: Expressions) -> Named:
    definition = row["definition"]
    if row["_check"] is not None:
        # What follows the expression (NO INHERIT, NOT VALID, NOT ENFORCED) is kept as it is.
        tail = definition.removeprefix(f"CHECK ({row['_check']})")
        definition = f"CHECK ({_expression(row, '_check', expressions)}){tail}"
    if row["type"] == "exclusion":
        definition = "EXCLUDE"  # its keys and predicate are its index's
    return _on_table("constraint", row, definition=definition)


def index(row: Row, expressions: Expressions) -> Named:
    found = {
        **_plain(row),
        "kind": "index",
        "keys": [_index_key(row, key, expressions) for key in row["_keys"]],
        "predicate": _expression(row, "_predicate", expressions),
        "options": index_options(row["method"], row["_options"]),
        "nulls_not_distinct": bool(row["nulls_not_distinct"]),
    }
    return f"index {word(row['name'])}", found


def _index_key(row: Row, key: dict[str, Any], expressions: Expressions) -> str:
    text = expressions[Wanted(row["_oid"], key["text"])] if key["expression"] else key["text"]
    collation = f" COLLATE {key['collation']}" if key["collation"] else ""
    options = f" ({', '.join(key['options'])})" if key["options"] else ""
    return f"{text}{collation} {key['operator_class']}{options}{_ORDERS[key['order']]}"


def trigger(row: Row, expressions: Expressions) -> Named:
    when = expressions[Wanted(row["_oid"], row["_when"], trigger=True)] if row["_when"] else None
    return _on_table("trigger", row, when=when)


def function(row: Row, ours: Collection[str]) -> Named:
    settings = function_settings(row["_settings"], ours)
    return f"function {row['_signature']}", {**_plain(row), "kind": "function", "table": None, "settings": settings}


def policy(row: Row, expressions: Expressions) -> Named:
    using, check = (_expression(row, name, expressions) for name in ("_using", "_check"))
    return _on_table("policy", row, using=using, check=check)


def sequence(row: Row) -> Named:
    """Named after the column that owns it: its own name is one of the things that can differ."""
    owner = f"of {word(row['table'])}.{word(row['column'])}" if row["table"] else word(row["name"])
    return f"sequence {owner}", {**_plain(row), "kind": "sequence"}


def privileges(holder: Named, rows: Iterable[Row]) -> Named:
    key, document = holder
    return f"privileges of {key}", {
        "kind": "privileges",
        "table": document["table"],
        "name": key,
        "grants": grants(rows),
    }


def hanging(kind: str, row: Row) -> Named:
    """A statistics object or a rule."""
    return _on_table(kind, row)


def _on_table(kind: str, row: Row, **more: object) -> Named:
    return f"{kind} {word(row['table'])}.{word(row['name'])}", {**_plain(row), "kind": kind, **more}


def _plain(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def _expression(row: Row, name: str, expressions: Expressions) -> str | None:
    text = row[name]
    return None if text is None else expressions[Wanted(row["_oid"], text)]
