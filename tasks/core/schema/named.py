"""Would a migration change a table that it names with its schema? Where it is only tried, in a schema that never comes
to be, such a name leads to the real table all the same: its readers would wait until the trial is rolled back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sql import query
from tasks.core.errors import MigrationFailed
from tasks.core.postgres.connections import Connection
from tasks.core.schema.statements import Statement

# What takes more of a table than reading does. Views and functions may name what they like: they only keep the name.
_CHANGES = frozenset({"alter", "analyze", "cluster", "copy", "delete", "do", "drop", "insert", "lock", "merge"})
_CHANGES |= {"refresh", "reindex", "truncate", "update", "vacuum", "with"}
_MADE_ON_A_TABLE = frozenset({"index", "policy", "rule", "trigger"})
_NAME = r'(?:"((?:[^"]|"")+)"|([^\W\d][\w$]*))'
_QUALIFIED = rf"{_NAME}\s*\.\s*{_NAME}"
_COMMENTS = r"--[^\n]*|/\*.*?\*/"
# A block runs what stands in its strings (EXECUTE), nothing else does.
_IN_A_BLOCK = re.compile(f"{_COMMENTS}|{_QUALIFIED}", re.DOTALL)
_ELSEWHERE = re.compile(f"{_COMMENTS}|'(?:''|[^'])*'|{_QUALIFIED}", re.DOTALL)


def refuse_named(conn: Connection, statements: Sequence[Statement], file: str, scratch: str = "") -> None:
    """Raises MigrationFailed (file:line:column) for the first that would change a table, view, index or sequence which
    is there already and which it names with its schema. `scratch` is the schema of the trial, where it may.
    """
    found = [(part, *name) for part in statements if _changes(part) for name in _names(part)]
    if not found:
        return
    there = set(conn.execute(query("relations_elsewhere"), {"schema": scratch}).fetchall())
    for part, position, schema, name in found:
        if (schema, name) in there:
            line, column = part.place(position)
            raise MigrationFailed(
                f"{file}:{line}:{column}: names {schema}.{name} with its schema; nothing was run",
                hint=f"write {name} alone: the search_path decides in which schema a migration runs, and a plan tries "
                "it in another than the real one",
            )


def _changes(part: Statement) -> bool:
    first = part.words[:1]
    if first == ("create",):
        return not _MADE_ON_A_TABLE.isdisjoint(part.words[1:5])
    return first != () and first[0] in _CHANGES


def _names(part: Statement) -> Iterator[tuple[int, str, str]]:
    """Position (from 1), schema and name of each qualified name, folded as the server does."""
    pattern = _IN_A_BLOCK if part.words[0] == "do" else _ELSEWHERE
    for match in pattern.finditer(part.text):
        if match[1] or match[2]:
            schema, name = _folded(match[1], match[2]), _folded(match[3], match[4])
            yield match.start() + 1, schema, name


def _folded(quoted: str | None, plain: str | None) -> str:
    return quoted.replace('""', '"') if quoted else (plain or "").lower()
