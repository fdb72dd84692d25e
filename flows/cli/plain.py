"""A plan's Markdown, which `tasks/core/release/describe.py` writes for forms and pages, as text for a terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from itertools import groupby

_FENCE = re.compile("`{3,}")
_INLINE = re.compile(r"\\([\\`*_\[\]|~#!])|(`+)( ?)(.*?)\3\2(?!`)")
_BETWEEN_CELLS = re.compile(r"(?<!\\)\|")
RULE = "-" * 60


def plain(markdown: str) -> str:
    """Headings, a table's rows and words without their marks; what stands in fences to the letter, between rules."""
    shown: list[str] = []
    for is_row, lines in groupby(_lines(markdown), key=lambda line: not line[1] and line[0].startswith("|")):
        if is_row:
            shown += _rows(text for text, _ in lines)
        else:
            shown += [text if verbatim else words(text) for text, verbatim in lines]
    return printable("\n".join(shown))


def printable(text: str) -> str:
    """Without what would move a terminal's cursor, or hide what is there: each such character is shown as one."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def words(line: str) -> str:
    """One line of Markdown as a person reads it."""
    return "".join(_spelled(line.removeprefix("## ").removeprefix("# ")))


def _lines(markdown: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it stands in a fence (or is the rule that is shown in its place)."""
    fence = ""
    for line in markdown.split("\n"):
        opening = _FENCE.match(line) if not fence else None
        if opening or (fence and line == fence):
            fence = opening[0] if opening else ""
            yield RULE, True
        else:
            yield line, bool(fence)


def _rows(lines: Iterable[str]) -> list[str]:
    """A table of two columns without its rules and its empty head."""
    cells = [[words(cell.strip()) for cell in _BETWEEN_CELLS.split(line)[1:-1]] for line in lines]
    rows = [row for row in cells if any(cell.strip("-") for cell in row)]
    width = max((len(row[0]) for row in rows), default=0)
    return [f"  {row[0]:<{width}}  {'  '.join(row[1:])}" for row in rows]


def _spelled(line: str) -> Iterator[str]:
    end = 0
    for found in _INLINE.finditer(line):
        yield html.unescape(line[end : found.start()])
        yield found[1] if found[1] else found[4]
        end = found.end()
    yield html.unescape(line[end:])
