"""Clustered vectors, as embeddings of files are: neighbours within a cluster, clusters far apart."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.core.postgres.connections import Connection

DIMENSIONS = 1536
LANGUAGES = ("python", "go", "rust", "sql")
PREVIEW = 500  # characters: what `kg index` keeps of a file


def source_texts() -> list[str]:
    """Python's own library, cut into previews: what lies beside the vectors in a knowledge graph of code."""
    texts = (path.read_text(encoding="utf-8", errors="ignore") for path in Path(os.__file__).parent.rglob("*.py"))
    pieces = [text[at : at + PREVIEW].replace("\0", "") for text in texts for at in range(0, len(text), PREVIEW)]
    return [piece for piece in pieces if piece]


def clustered(rows: int, *, seed: int = 7, clusters: int = 0) -> Iterator[Any]:
    """Float32 vectors of 1536, unit length, a batch of at most 1,000 at a time."""
    import numpy as np

    generator = np.random.default_rng(seed)
    count = clusters or max(2, rows // 50)
    centres = generator.standard_normal((count, DIMENSIONS), dtype=np.float32)
    for start in range(0, rows, 1000):
        size = min(1000, rows - start)
        chosen = centres[generator.integers(0, count, size)]
        spread = generator.standard_normal((size, DIMENSIONS), dtype=np.float32)
        made = chosen + 0.7 * spread
        yield made / np.linalg.norm(made, axis=1, keepdims=True)


def fill(conn: Connection, rows: int, *, seed: int = 7, texts: Sequence[str] = ("text",)) -> None:
    """That many rows in code_embeddings, a language and one of `texts` each."""
    from pgvector.psycopg import register_vector

    register_vector(conn)
    number = 0
    statement = (
        "COPY code_embeddings (file_path, file_hash, content_preview, embedding, language)"
        " FROM STDIN WITH (FORMAT BINARY)"
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["text", "text", "text", "vector", "text"])
        for batch in clustered(rows, seed=seed):
            for vector in batch:
                number += 1
                language = LANGUAGES[number % len(LANGUAGES)]
                text = texts[number % len(texts)]
                copy.write_row((f"file_{seed}_{number}.x", f"{seed}-{number}", text, vector, language))
