"""Which object found is which one expected: by its name, else by what it is.

An index, constraint, trigger or function that was made with another name does the same work: it is found by its
definition, and its name is the difference. So a rename is one line, and not one thing missing and another too many.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Objects: TypeAlias = Mapping[str, dict[str, Any]]

RELATIONS = ("table", "view", "materialized view", "foreign table")

# Not part of what an object is.
_LABELS = {"name", "comment", "valid", "ready", "state"}

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_SPACE = re.compile(r"\s+")
_AROUND_SIGNS = re.compile(r" ?([;=,()]) ?")


@dataclass
class Matching:
    """Keys of the two documents: `pairs` belong together. `functions` leads from a function's key as found to the
    expected one that does the same.
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)


def match_objects(expected: Objects, actual: Objects) -> Matching:
    """Every object is in one pair, or missing, or extra; what hangs on a missing or extra table is left out."""
    whole, found = _on_common_tables(expected, actual), _on_common_tables(actual, expected)
    matching = Matching([(key, key) for key in whole if key in found])
    missing = {key: whole[key] for key in whole if key not in found}
    extra = {key: found[key] for key in found if key not in whole}
    _match_functions(matching, missing, extra, expected)

    def by_function(document: dict[str, Any]) -> Hashable:
        called = f"function {document['function']}"
        return _definition({**document, "function": matching.functions.get(called, called)})

    def expected_function(document: dict[str, Any]) -> Hashable:
        return _definition({**document, "function": f"function {document['function']}"})

    _match_by(matching, missing, extra, "constraint", _definition)
    _match_by(matching, missing, extra, "trigger", expected_function, by_function)
    _match_constraint_indexes(matching, missing, extra, expected, actual)
    _match_by(matching, missing, extra, "index", _definition)
    _match_privileges(matching, missing, extra)
    matching.missing, matching.extra = list(missing), list(extra)
    return matching


def same_work(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two functions do the same, however their bodies are spaced and spelt."""
    return _essence(one) == _essence(other)


def _on_common_tables(these: Objects, those: Objects) -> dict[str, dict[str, Any]]:
    """`these` without what hangs on a table that `those` have not; the table itself stays."""
    gone = {one["name"] for key, one in these.items() if one["kind"] in RELATIONS and key not in those}
    return {key: one for key, one in these.items() if one["kind"] in RELATIONS or one["table"] not in gone}


def _match_functions(matching: Matching, missing: dict[str, Any], extra: dict[str, Any], expected: Objects) -> None:
    """Several found may do the work of one expected: the first is its match, the triggers of all are right."""
    functions = {key: document for key, document in expected.items() if document["kind"] == "function"}
    for key, document in sorted(extra.items()):
        twin = next(
            (name for name in functions if document["kind"] == "function" and same_work(functions[name], document)),
            None,
        )
        if twin is None:
            continue
        matching.functions[key] = twin
        if twin in missing:
            del missing[twin], extra[key]
            matching.pairs.append((twin, key))


def _match_by(
    matching: Matching,
    missing: dict[str, Any],
    extra: dict[str, Any],
    kind: str,
    identity: Callable[[dict[str, Any]], Hashable],
    identity_found: Callable[[dict[str, Any]], Hashable] | None = None,
) -> None:
    candidates: dict[Hashable, list[str]] = defaultdict(list)
    for key in sorted(_of_kind(extra, kind)):
        candidates[(identity_found or identity)(extra[key])].append(key)
    for key in sorted(_of_kind(missing, kind)):
        same = candidates[identity(missing[key])]
        if same:
            matching.pairs.append((key, same[0]))
            del missing[key], extra[same.pop(0)]


def _match_constraint_indexes(
    matching: Matching, missing: dict[str, Any], extra: dict[str, Any], expected: Objects, actual: Objects
) -> None:
    """A constraint's index follows its constraint: into a pair, or out of the lists (the constraint says it all)."""
    partners = {
        (expected[one]["table"], expected[one]["name"]): actual[other]["name"]
        for one, other in matching.pairs
        if expected[one]["kind"] == "constraint"
    }
    kept = {
        (extra[key]["table"], extra[key]["constraint"]): key
        for key in _of_kind(extra, "index")
        if extra[key]["constraint"]
    }
    for key in [key for key in _of_kind(missing, "index") if missing[key]["constraint"]]:
        document = missing.pop(key)
        partner = partners.get((document["table"], document["constraint"]))
        found = kept.get((document["table"], partner))
        if found is not None:
            matching.pairs.append((key, found))
    for key in kept.values():
        del extra[key]


def _match_privileges(matching: Matching, missing: dict[str, Any], extra: dict[str, Any]) -> None:
    """Privileges follow what they are on; with that missing or extra they say nothing more."""
    partners = dict(matching.pairs)
    for key in list(_of_kind(missing, "privileges")):
        holder = partners.get(missing.pop(key)["name"])
        if holder is not None and f"privileges of {holder}" in extra:
            matching.pairs.append((key, f"privileges of {holder}"))
    for key in list(_of_kind(extra, "privileges")):
        del extra[key]


def _of_kind(documents: Mapping[str, dict[str, Any]], kind: str) -> Iterable[str]:
    return [key for key, document in documents.items() if document["kind"] == kind]


def _definition(document: dict[str, Any]) -> Hashable:
    return json.dumps({name: value for name, value in document.items() if name not in _LABELS}, sort_keys=True)


def _essence(function: dict[str, Any]) -> Hashable:
    ignored = {*_LABELS, "settings"}
    rest = {name: value for name, value in function.items() if name not in ignored}
    return json.dumps({**rest, "body": _plain_body(function)}, sort_keys=True)


def _plain_body(function: dict[str, Any]) -> str:
    """The body without comments, spacing and capitals, with one spelling of assignment and of now(). Only PL/pgSQL,
    and only where no quote could hide that any of them matters.
    """
    body = str(function["body"])
    if function["language"] != "plpgsql" or "'" in body or '"' in body or "$" in body:
        return body
    body = _SPACE.sub(" ", _COMMENT.sub(" ", body)).strip().lower()
    body = body.replace(":=", "=").replace("current_timestamp", "now()").replace("pg_catalog.now()", "now()")
    return _AROUND_SIGNS.sub(r"\1", body).removesuffix(";")
