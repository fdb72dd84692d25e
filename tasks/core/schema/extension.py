"""pgvector: what is known to be wrong with a version."""

from __future__ import annotations

import re

FIRST_WITH_HNSW = "0.5.0"
MOST_INDEXED = 2_000
"""Dimensions that an index on a vector column takes; on halfvec (from 0.7.0) it is twice as many."""
_HALFVEC_SINCE = "0.7.0"

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


def too_wide(dimensions: int, column: str = "the column") -> str:
    """What can be done for a vector column that no index takes."""
    if dimensions > 2 * MOST_INDEXED:
        return f"{dimensions} dimensions are more than any index takes: store shorter vectors, or search without one"
    return (
        f"{dimensions} dimensions are more than the {MOST_INDEXED:,} that an HNSW index on vector takes: make {column} "
        f"halfvec({dimensions}), or index the expression ({column}::halfvec({dimensions})) with halfvec_cosine_ops "
        f"(pgvector {_HALFVEC_SINCE} and later)"
    )


def limit_hint(message: str) -> str | None:
    """The remedy where a server's message says that a column is too wide for an index."""
    if re.match(r"column cannot have more than \d+ dimensions for \w+ index", message):
        return (
            f"an index on vector takes {MOST_INDEXED:,} dimensions at most: use halfvec, or an index on the expression "
            f"(column::halfvec(n)) with halfvec_cosine_ops (pgvector {_HALFVEC_SINCE} and later)"
        )
    return None


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
