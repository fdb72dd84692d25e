"""One spelling for what the server stores in several: expressions, index options, settings, privileges."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg
from psycopg.sql import SQL, Composable, Identifier

from tasks.core.postgres.connections import Connection

Row: TypeAlias = dict[str, Any]

# What an index has where its definition names no value, so that written and left out are the same.
_INDEX_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "hnsw": {"m": "16", "ef_construction": "64"},
    "ivfflat": {"lists": "100"},
}

# A setting's identifiers, quoted or not: search_path = "$user", public
_IDENTIFIER = re.compile(r'"((?:[^"]|"")*)"|([^",\s]+)')

# ALL on a table before 17; the MAINTAIN that 17 adds to it says nothing more.
_ALL_BEFORE_17 = {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"}

_EXPLAIN = SQL("EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) SELECT {} FROM {}")


@dataclass(frozen=True)
class Wanted:
    """An expression over the columns of a table (by OID); a trigger's reads two rows of it, `old` and `new`."""

    table: int
    text: str
    trigger: bool = False


Expressions: TypeAlias = Mapping[Wanted, str]


def normalise_expressions(conn: Connection, wanted: Iterable[Wanted], columns: Sequence[Row]) -> Expressions:
    """Each expression as the server writes it after parsing, constant folding and flattening it.

    A dump writes `a AND b AND c` or `x IN ('p', 'q')` so that a restore stores another tree, which is then written
    otherwise: as stored, equal expressions differ. The planner brings both to one form, and EXPLAIN shows it, without
    writing anything and, over a made-up row, without a privilege on the table.
    """
    groups: dict[tuple[int, bool], list[Wanted]] = defaultdict(list)
    for one in wanted:
        # EXPLAIN would show no more of a subquery (only policies have them) than its number.
        if "SELECT" not in one.text:
            groups[one.table, one.trigger].append(one)
    found = {one: one.text for one in wanted}
    for (table, trigger), members in groups.items():
        rows = _made_up_rows([row for row in columns if row["_oid"] == table], trigger)
        found |= zip(members, _written([one.text for one in members], rows, conn), strict=True)
    return found


def _written(texts: Sequence[str], rows: Composable, conn: Connection) -> list[str]:
    """All in one EXPLAIN; where one of them cannot be explained (a system column, a function that we may not call),
    each by itself, and that one stays as it is stored.
    """
    terms = SQL(", ").join(SQL("({})").format(_trusted(text)) for text in texts)
    try:
        with conn.transaction():
            row = conn.execute(_EXPLAIN.format(terms, rows)).fetchone()
    except psycopg.Error:
        if len(texts) == 1 or conn.broken:
            return list(texts)
        return [_written([text], rows, conn)[0] for text in texts]
    assert row is not None
    return [str(text) for text in row[0][0]["Plan"]["Output"]]


def _made_up_rows(columns: Sequence[Row], trigger: bool) -> Composable:
    """FROM: a function that the planner does not look into, returning rows of the table's shape."""
    shape = SQL(", ").join(_shape(column) for column in columns)
    aliases = ("old", "new") if trigger else ("row",)
    calls = [SQL("jsonb_to_record('{{}}') AS {}({})").format(Identifier(alias), shape) for alias in aliases]
    return SQL(", ").join(calls)


def _shape(column: Row) -> Composable:
    collation = column["collation"]
    return SQL("{} {}{}").format(
        Identifier(column["name"]), _trusted(column["type"]), _trusted(f" COLLATE {collation}" if collation else "")
    )


def _trusted(text: str) -> SQL:
    """SQL that the server itself has just written."""
    return SQL(text)


def index_options(method: str, options: Sequence[str] | None) -> list[str]:
    """`WITH (...)`, sorted, with the values that the access method takes where none is given."""
    given = dict(option.split("=", 1) for option in options or ())
    return sorted(f"{name}={value}" for name, value in {**_INDEX_DEFAULTS.get(method, {}), **given}.items())


def function_settings(settings: Sequence[str] | None, ours: Collection[str]) -> list[str]:
    """`SET name = value`, sorted; in a search_path the schemas in `ours` are one word (SET ... FROM CURRENT)."""
    return sorted(_search_path(one, ours) if one.startswith("search_path=") else one for one in settings or ())


def _search_path(setting: str, ours: Collection[str]) -> str:
    value = setting.partition("=")[2]
    names = [match[2] or match[1].replace('""', '"') for match in _IDENTIFIER.finditer(value)]
    words = dict.fromkeys("<ours>" if name in ours else name or '""' for name in names)
    return f"search_path={', '.join(words)}"


def grants(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Grantee -> what it may do, "... with grant option" apart. MAINTAIN is left out where all else is there."""
    plain: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for row in rows:
        plain[row["grantee"], row["grantable"]].add(row["privilege"])
    found: dict[str, list[str]] = defaultdict(list)
    for (grantee, grantable), privileges in sorted(plain.items()):
        named = privileges - ({"MAINTAIN"} if privileges >= _ALL_BEFORE_17 else set())
        found[grantee] += [f"{one} with grant option" if grantable else one for one in sorted(named)]
    return dict(found)
