"""What people, databases and files say, inside of Markdown: shown to the letter but for secrets, and never obeyed.

Every page of a run and every form is Markdown. A name, a note, an error's text goes through here on its way into one.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence

from tasks.core.notifications.secrets import scrub

_SPECIAL = re.compile(r"[\\`*_\[\]|~#!]")
_BEGINNINGS = re.compile(r"<(?=[A-Za-z/!?])|\](?=[(\[:])")
_BACKTICKS = re.compile(r"`+")


def inline(text: object) -> str:
    """On one line, with nothing that ends a table's cell, makes a link, a picture, code, a heading or HTML."""
    escaped = _SPECIAL.sub(r"\\\g<0>", _plain(text))
    return html.escape(escaped, quote=False)


def code(text: object) -> str:
    """The same as a code span, whatever backticks are in it. Not for a table's cell, which a bar would end."""
    plain = _plain(text)
    ticks = _longer_than_any(plain, 1)
    space = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{ticks}{space}{plain}{space}{ticks}" if plain else ""


def block(lines: Sequence[str], language: str) -> list[str]:
    """The lines as they are, in a fence that none of them ends."""
    text = scrub("\n".join(lines), os.environ)
    ticks = _longer_than_any(text, 3)
    return [f"{ticks}{language}", *text.split("\n"), ticks]


def inert(text: str) -> str:
    """For a cell of a table artifact, which the new interface shows as it is and the old one as Markdown with HTML.

    The same to the eye, but an invisible joiner keeps a tag, link or picture from being one.
    """
    return _BEGINNINGS.sub("\\g<0>\u2060", text)


def _plain(text: object) -> str:
    return " ".join(scrub(str(text), os.environ).split())


def _longer_than_any(text: str, least: int) -> str:
    return "`" * max(least, 1 + max((len(run) for run in _BACKTICKS.findall(text)), default=0))
