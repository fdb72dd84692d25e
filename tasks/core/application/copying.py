"""Rows in the format of COPY ... (FORMAT binary): whole batches as bytes, without an adapter call a value.

Format: https://www.postgresql.org/docs/current/sql-copy.html (Binary Format); the vector's: pgvector's vector_recv.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.core.application.embeddings import Vectors

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_INT2, _INT4, _VECTOR = Struct(">h"), Struct(">i"), Struct(">hh")


def binary_rows(rows: Iterable[Sequence[bytes | None]]) -> bytes:
    """The whole stream of one COPY; each field is already in its type's binary form, None is NULL."""
    parts = [_HEADER]
    for row in rows:
        parts.append(_INT2.pack(len(row)))
        for field in row:
            parts += (_NULL,) if field is None else (_INT4.pack(len(field)), field)
    parts.append(_TRAILER)
    return b"".join(parts)


def text_field(value: str) -> bytes:
    """`value` without what PostgreSQL's text cannot hold: NULs and lone surrogates."""
    return value.replace("\0", "").encode("utf-8", "replace")


def integer_field(value: int) -> bytes:
    return _INT4.pack(value)


def vector_fields(vectors: Vectors) -> list[bytes]:
    """Rows of a float32 array as pgvector's binary form: dimensions, a reserved zero, big-endian floats."""
    dimensions = vectors.shape[1]
    header, data, width = _VECTOR.pack(dimensions, 0), vectors.astype(">f4").tobytes(), 4 * dimensions
    return [header + data[start : start + width] for start in range(0, len(data), width)]
