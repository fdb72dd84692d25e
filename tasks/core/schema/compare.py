"""What differs between the catalog that a revision should have and the one that was found, a line each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

from tasks.core.schema.catalog import Catalog
from tasks.core.schema.matching import RELATIONS, Matching, match_objects, same_work
from tasks.core.schema.objects import word

Severity: TypeAlias = Literal["failed", "reported"]
Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """One thing that is not as expected. `detail` is the whole line, with the object's name."""

    object: str
    what: Literal["missing", "changed", "extra"]
    detail: str
    severity: Severity
    kind: str
    """Of the object: "table", "column", "index", ..."""
    aspect: str = ""
    """What of a changed object: "type", "name", "position", ..."""

    pairs: tuple[str, ...] = ()
    """Of a column that stands elsewhere: each pair of columns whose order is the other way round."""

    @property
    def keys(self) -> tuple[str, ...]:
        """What the ledger remembers of a tolerated difference. A column's place is told by its neighbours, which the
        next migration may change; which of two columns comes first stays as it is.
        """
        return self.pairs or (self.detail,)

    def __str__(self) -> str:
        return self.detail


# Told apart by the matching, or said elsewhere.
_NOT_COMPARED = {"kind", "table", "name", "columns"}

# Tuning and remarks: they change no answer and refuse no row.
_HARMLESS = {"comment", "storage", "compression"}

# Others may add these; anything else that no migration made changes what the tables accept or return.
_MAY_BE_EXTRA = {"index", "statistics", "function", "sequence", *RELATIONS}


def compare(expected: Catalog, actual: Catalog) -> tuple[Difference, ...]:
    """The differences, ordered by object. Severity "failed" means that the database is not what its revision says."""
    whole, found = expected["objects"], actual["objects"]
    matching = match_objects(whole, found)
    differences = [
        _missing(key, whole[key]) for key in matching.missing if not _owner_gone(whole[key], matching.missing)
    ]
    differences += [_extra(key, found[key]) for key in matching.extra if not _owner_gone(found[key], matching.extra)]
    for one, other in matching.pairs:
        differences += _changes(one, whole[one], found[other], matching)
    return tuple(sorted(differences, key=lambda difference: (difference.object, difference.detail)))


def failures(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Those that fail a verification."""
    return tuple(difference for difference in differences if difference.severity == "failed")


def _owner_gone(document: Document, gone: Sequence[str]) -> bool:
    """A sequence goes and comes with the column that owns it."""
    if document["kind"] != "sequence" or document["table"] is None:
        return False
    return f"column {word(document['table'])}.{word(document['column'])}" in gone


def _missing(key: str, document: Document) -> Difference:
    return Difference(key, "missing", f"{_place(key, document)}: missing", "failed", document["kind"])


def _extra(key: str, document: Document) -> Difference:
    kind = document["kind"]
    # A unique index refuses rows, as a constraint does.
    harmless = kind in _MAY_BE_EXTRA and not document.get("unique")
    line = f"{_place(key, document)}: extra{_sketch(document)}"
    return Difference(key, "extra", line, "reported" if harmless else "failed", kind)


def _place(key: str, document: Document) -> str:
    return f"{key} on {document['table']}" if document["kind"] == "index" else key


def _sketch(document: Document) -> str:
    """What an extra object is, in brackets."""
    match document["kind"]:
        case "index":
            unique, valid = "unique " if document["unique"] else "", "" if document["valid"] else ", not valid"
            return f" ({unique}{document['method']} ({', '.join(document['keys'])}){valid})"
        case "column":
            return f" ({document['type']})"
        case "constraint":
            return f" ({document['definition']})"
        case "trigger":
            return f" (calls {document['function']})"
        case "policy":
            return f" ({document['command']} to {', '.join(document['roles'])})"
    return ""


def _changes(key: str, expected: Document, found: Document, matching: Matching) -> Iterator[Difference]:
    kind = expected["kind"]
    kept_by_constraint = kind == "index" and expected["constraint"] and found["constraint"]

    def changed(aspect: str, words: str, severity: Severity = "failed") -> Difference:
        return Difference(key, "changed", f"{key}: {words}", severity, kind, aspect)

    if expected["name"] != found["name"] and kind != "privileges" and not kept_by_constraint:
        yield changed("name", f"found under the name {found['name']}")
    for aspect in (name for name in expected if name not in _NOT_COMPARED):
        one, other = expected[aspect], found[aspect]
        if one == other or (aspect == "constraint" and kept_by_constraint):
            continue
        if aspect == "grants":
            yield from (changed(aspect, words, severity) for words, severity in _grants(one, other))
        elif aspect == "function" and matching.functions.get(f"function {other}") == f"function {one}":
            if (f"function {one}", f"function {other}") not in matching.pairs:
                yield changed("twin", f"calls {other}, which does the same as {one}")
        elif aspect == "body" and same_work(expected, found):
            yield changed("wording", f"worded otherwise, to the same effect; {_body(one, other)}")
        else:
            harmless = aspect in _HARMLESS or (aspect == "options" and kind in RELATIONS)
            yield changed(aspect, _words(aspect, one, other), "reported" if harmless else "failed")
    yield from _moved(expected, found)


def _words(aspect: str, expected: Any, found: Any) -> str:
    if aspect in _PHRASES:
        return _PHRASES[aspect](expected, found)
    return f"{aspect.replace('_', ' ')} expected {_show(expected)}, found {_show(found)}"


def _body(expected: str, found: str) -> str:
    """The first line that differs; the rest of the body is told by its checksum."""
    lines = zip_longest(expected.splitlines(), found.splitlines(), fillvalue="")
    number, (one, other) = next(
        ((number, pair) for number, pair in enumerate(lines, start=1) if pair[0] != pair[1]), (0, (expected, found))
    )
    checksum = hashlib.sha256(found.encode()).hexdigest()[:12]
    return f"body line {number} expected {_short(one)}, found {_short(other)} (found body's sha256 {checksum})"


def _short(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


_PHRASES: dict[str, Callable[[Any, Any], str]] = {
    "not_null": lambda expected, _: (
        "expected not null, found nullable" if expected else "expected nullable, found not null"
    ),
    "valid": lambda _, found: "valid" if found else "not valid",
    "ready": lambda _, found: "ready" if found else "not ready",
    "state": lambda expected, found: found if expected == "enabled" else f"expected {expected}, found {found}",
    "body": _body,
}


def _show(value: Any) -> str:
    match value:
        case None | [] | "":
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(str(item) for item in value)
    return str(value)


def _grants(expected: dict[str, list[str]], found: dict[str, list[str]]) -> Iterator[tuple[str, Severity]]:
    """Who lost and who was given what. An administrator may give more; what a migration gave must be there."""
    for grantee in sorted({*expected, *found}):
        before, now = set(expected.get(grantee, ())), set(found.get(grantee, ()))
        if before - now:
            yield f"{grantee} lacks {', '.join(sorted(before - now))}", "failed"
        if now - before:
            yield f"{grantee} has {', '.join(sorted(now - before))} besides", "reported"


def _moved(expected: Document, found: Document) -> Iterator[Difference]:
    """The fewest columns whose move explains the order found, among those that both have."""
    before = [name for name in expected.get("columns", ()) if name in found["columns"]]
    now = [name for name in found.get("columns", ()) if name in before]
    kept = _longest_rising([before.index(name) for name in now])
    for place, name in enumerate(now):
        if before.index(name) in kept:
            continue
        key = f"column {word(expected['name'])}.{word(name)}"
        line = f"{key}: expected {_after(before, before.index(name))}, found {_after(now, place)}"
        pairs = tuple(f"columns of {expected['name']}: {one} before {two}" for one, two in _turned(name, before, now))
        yield Difference(key, "changed", line, "failed", "column", "position", pairs)


def _turned(name: str, before: Sequence[str], now: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(first, second) as found, where the order of `name` and another column is not the expected one."""
    for other in now:
        if (before.index(name) < before.index(other)) != (now.index(name) < now.index(other)) and name != other:
            yield (name, other) if now.index(name) < now.index(other) else (other, name)


def _after(names: Sequence[str], place: int) -> str:
    return f"after {names[place - 1]}" if place else "first"


def _longest_rising(numbers: Sequence[int]) -> set[int]:
    """The longest rising subsequence."""
    best: list[list[int]] = []
    for place, number in enumerate(numbers):
        best.append([*_longest(best[earlier] for earlier in range(place) if numbers[earlier] < number), number])
    return set(_longest(best))


def _longest(lists: Iterable[list[int]]) -> list[int]:
    return max(lists, key=lambda numbers: len(numbers), default=[])
