"""Lines and tables on standard output: as wide as the terminal, or COLUMNS where it is set; else nothing is broken."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence

STYLES = {"✓": "green", "✗": "bold red", "-": "dim", "!": "yellow"}
_INDENT = "    "  # of a line that goes on
_GAP = "  "  # between columns
_NARROWEST = 8  # characters of a column


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows of text. Cells that are too long for the width are wrapped; without one, nothing is cut."""
    if not rows:
        return
    if sys.stdout.isatty():
        _rich_table(headings, rows)
        return
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    widths = _fitting(widths, _columns())
    for row in (headings, *rows):
        cells = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            print(_GAP.join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip())  # noqa: T201


def say(text: str) -> None:
    """A line, or several; on a terminal it breaks them itself."""
    width = None if sys.stdout.isatty() else _columns()
    for line in text.split("\n"):
        print("\n".join(_broken(line, width)) if width and len(line) > width else line)  # noqa: T201


def _broken(line: str, width: int) -> list[str]:
    blanks = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line, width, subsequent_indent=blanks + _INDENT, break_long_words=False, break_on_hyphens=False
    )


def _columns() -> int | None:
    """How wide a pipe's reader wants it; None: as wide as it is."""
    value = os.environ.get("COLUMNS", "")
    return int(value) if value.isdecimal() and int(value) else None


def _fitting(widths: Sequence[int], most: int | None) -> list[int]:
    """The widest columns give way, down to what can still be read."""
    found = list(widths)
    while most and sum(found) + len(_GAP) * (len(found) - 1) > most and max(found) > _NARROWEST:
        found[found.index(max(found))] -= 1
    return found


def _wrapped(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width, break_on_hyphens=False) if len(cell) > width else [cell]


def _rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate(headings):
        drawn.add_column(heading, overflow="fold", no_wrap=position == 0)
    for row in rows:
        drawn.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console().print(drawn)
