"""The guide's table of parameters by the dataset's size, and when it calls for a re-index."""

from __future__ import annotations

from tasks.core.errors import UsageError
from tasks.core.vectors.memory import LEAST_M, MOST_M

GROWTH = 10  # more than so many times the vectors that there were at the build
LEAST_EF, MOST_EF = 4, 1000  # pgvector's limits of ef_construction

SMALL_TABLE = 10_000  # rows; below it the planner rightly prefers to read the whole table

# What makes the planner take an index that it passes over. Measured: 45,000 rows of vector(1536) with m=16 were read
# whole, 369 ms instead of 2 ms, since its cost leaves out where such vectors lie; each of these three mends that.
CHEAPER = (
    "ALTER DATABASE ... SET random_page_cost = 1.1, m=24 or more, or a greater hnsw.ef_search changes that (on 45,000 "
    "rows 369 ms became 2 ms)"
)

# Below so many vectors: (m, ef_construction) at least, and at most.
_TABLE = ((10_000, (16, 64), (16, 64)), (100_000, (16, 64), (32, 128)), (None, (32, 128), (64, 256)))


def guide_range(rows: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The guide's least and greatest (m, ef_construction) for so many vectors."""
    for limit, least, most in _TABLE:
        if limit is None or rows < limit:
            return least, most
    raise AssertionError("the last range is open")


def suggested(rows: int, m: int, ef_construction: int) -> tuple[int, int]:
    """m and ef_construction for `rows` vectors: raised to the guide's least where they are below it.

    Greater ones stay: they cost time, and no recall.
    """
    least, _ = guide_range(rows)
    return max(m, least[0]), max(ef_construction, least[1])


def stronger(m: int, ef_construction: int) -> tuple[int, int]:
    """The next step up, for an index whose recall is too low with the guide's own parameters."""
    larger = min(2 * m, 64) if m < 64 else m
    return larger, min(max(2 * ef_construction, 2 * larger), MOST_EF)


def check_parameters(m: int, ef_construction: int) -> None:
    """Raises UsageError for what pgvector would refuse."""
    if not LEAST_M <= m <= MOST_M:
        raise UsageError(f"m={m} is out of range", hint=f"{LEAST_M} to {MOST_M}; the guide's table has 16 to 64")
    if not LEAST_EF <= ef_construction <= MOST_EF:
        raise UsageError(f"ef_construction={ef_construction} is out of range", hint=f"{LEAST_EF} to {MOST_EF}")
    if ef_construction < 2 * m:
        raise UsageError(
            f"ef_construction={ef_construction} is less than twice m={m}", hint=f"ef_construction={2 * m} or more"
        )
