"""How much memory an HNSW build wants (too little, and the server builds several times slower), and how large the
index is when nothing of it is waste.
"""

from __future__ import annotations

import math

LEAST_M, MOST_M = 2, 100  # pgvector's limits
_PAGE = 8192
_USABLE = _PAGE - 24 - 8  # without the page's header and pgvector's own mark at its end


def build_memory_bytes(rows: int, dimensions: int, m: int, *, bytes_each: int = 4) -> int:
    """Bytes that maintenance_work_mem must offer for `rows` vectors of `dimensions` numbers at `m`.

    Per row: the element, its vector, the neighbour lists of the lowest layer and the expected share of the higher
    ones, as pgvector's hnsw.h and hnswutils.c allocate them. `bytes_each` is 4 for vector and 2 for halfvec.
    """
    if rows == 0:
        return 0
    per_row = 128 + (8 + bytes_each * dimensions) + 8 + (8 + 32 * m) + (16 + 16 * m) / (m - 1)
    return round(rows * per_row)


def largest_m(rows: int, dimensions: int, available: int) -> int | None:
    """The greatest m whose graph fits into `available` bytes, None where not even the least does."""
    fitting = [m for m in range(LEAST_M, MOST_M + 1) if build_memory_bytes(rows, dimensions, m) <= available]
    return max(fitting, default=None)


def index_bytes(rows: int, dimensions: int, m: int) -> int:
    """Bytes on disk of a fresh HNSW index over float4 vectors, within a few per cent.

    An element holds its vector and up to ten row addresses; its neighbours are a second entry of 6 bytes each, twice m
    on the lowest layer and m on each higher one, of which a row has 1/(m - 1) on average.
    """
    element = _aligned(72 + 8 + 4 * dimensions) + 4
    neighbours = _aligned(4 + math.ceil(6 * m * (2 + 1 / (m - 1)))) + 4
    together = max(1, _USABLE // (element + neighbours))
    return _PAGE * (1 + math.ceil(rows / together))


def _aligned(size: int) -> int:
    return (size + 7) // 8 * 8
