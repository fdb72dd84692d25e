"""Tables without a ledger: made by the hand-run script of old, and hence revision 1, or none of ours, or something in
between, which is refused. All or nothing: CREATE ... IF NOT EXISTS would "succeed" over half a schema.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from sql import query
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.schema.catalog import Catalog, read_catalog
from tasks.core.schema.compare import Difference, compare
from tasks.core.schema.expected import Expected, scope_of
from tasks.core.schema.matching import RELATIONS

# kind -> what of it may be otherwise: it changes no answer, refuses no row, and keeps updated_at true.
_TOLERATED: dict[str, frozenset[str]] = {
    "table": frozenset({"row_security", "row_security_forced"}),
    "column": frozenset({"position"}),
    "constraint": frozenset({"name"}),
    "index": frozenset({"name"}),
    "trigger": frozenset({"name", "twin"}),
    "function": frozenset({"name", "settings", "wording"}),
    "sequence": frozenset({"name"}),
    "privileges": frozenset({"grants"}),
}


@dataclass(frozen=True)
class Verdict:
    """What to do about a database that has no ledger.

    "apply": nothing of revision 1 is there. "adopt": all of it is, but for what `tolerated` says in words; these keys
    go into the ledger. "refuse": `differences` are why.
    """

    kind: Literal["apply", "adopt", "refuse"]
    tolerated: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()


def judge(conn: Connection, expected: Expected, schema: str) -> Verdict:
    """Is what `schema` holds the first revision? Reads only. Raises DatabaseError."""
    first = next((catalog for revision, catalog in expected.catalogs.items() if revision), None)
    if first is None:
        return Verdict("apply")
    taken = _names_in_use(conn, schema, first)
    if not taken:
        return Verdict("apply")
    actual = read_catalog(conn, schema, scope_of(first))
    found = compare(first, actual)
    barring = tuple(difference for difference in found if not _tolerable(difference))
    if not any(document["kind"] in RELATIONS for document in actual["objects"].values()):
        barring += taken  # no table at all, but names of ours: CREATE ... IF NOT EXISTS would pass over them
    if barring:
        return Verdict("refuse", differences=barring)
    return Verdict("adopt", tolerated=tuple(dict.fromkeys(key for difference in found for key in difference.keys)))


def without_tolerated(differences: Iterable[Difference], tolerated: Collection[str]) -> tuple[Difference, ...]:
    """`differences` but for those accepted at the adoption; a new one, also of the same object, remains.

    `tolerated` is what the ledger's entries hold. A renamed object that is dropped, or made otherwise, later, is then
    missing under its own name: another difference than the accepted one.
    """
    return tuple(difference for difference in differences if not set(difference.keys) <= set(tolerated))


def _tolerable(difference: Difference) -> bool:
    if difference.kind in RELATIONS and difference.what == "extra":
        return False  # only our names are read: something else bears one of them
    if difference.severity == "reported" or difference.kind == "policy":
        return True
    return difference.what == "changed" and difference.aspect in _TOLERATED.get(difference.kind, ())


def _names_in_use(conn: Connection, schema: str, catalog: Catalog) -> tuple[Difference, ...]:
    """Whatever there bears a name that the first revision gives to one of its objects."""
    documents = catalog["objects"].values()
    relations = [one["name"] for one in documents if one["kind"] in {*RELATIONS, "index", "sequence"}]
    functions = [one["name"] for one in documents if one["kind"] == "function"]
    values = {"schema": schema, "relations": relations, "functions": functions}
    with database_errors(f"looking for the tables in schema {schema}"):
        return tuple(_taken(*row) for row in conn.execute(query("names_in_use"), values).fetchall())


def _taken(kind: str, name: str, table: str | None) -> Difference:
    key = f"{kind} {name}"
    line = f"{key}: already there{f', on {table}' if table else ''}, without the tables that it belongs to"
    return Difference(key, "extra", line, "failed", kind)
