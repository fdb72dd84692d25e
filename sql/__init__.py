"""Named queries: every SQL statement of the project that is not a migration stands in sql/queries/, with a line that
says what it answers.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from psycopg.sql import SQL

_HEADING = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@cache
def _queries() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted((Path(__file__).parent / "queries").glob("*.sql")):
        parts = _HEADING.split(path.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            assert name not in found, f"query {name} is defined twice"
            found[name] = text.strip().rstrip(";")
    return found


def query(name: str) -> SQL:
    """The query of that name, ready for `execute` or `format`. Raises KeyError for an unknown name."""
    return SQL(_queries()[name])
