"""pgvector: what is known to be wrong with a version."""

from __future__ import annotations

import re

FIRST_WITH_HNSW = "0.5.0"

# (from, until but not with, what is wrong): https://github.com/pgvector/pgvector/blob/master/CHANGELOG.md
_BUGS = (
    ("0.6.0", "0.8.2", "parallel HNSW builds can overflow a buffer: build without parallel workers"),
    ("0.5.0", "0.8.3", "vacuum can corrupt an HNSW index"),
    ("0.5.0", "0.8.4", 'vacuum can end in "hnsw graph not repaired"'),
)


def has_hnsw(version: str) -> bool:
    return _number(version) >= _number(FIRST_WITH_HNSW)


def known_bugs(version: str) -> tuple[str, ...]:
    """What is wrong with HNSW in that version, a line each with the version that mends it."""
    number = _number(version)
    return tuple(
        f"{bug} (mended in {until})" for since, until, bug in _BUGS if _number(since) <= number < _number(until)
    )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
