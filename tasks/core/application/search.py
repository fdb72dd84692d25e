"""`kg search`: the files nearest to a question."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from psycopg.rows import dict_row

from sql import query
from tasks.core.application.choosing import chosen_embedder
from tasks.core.application.embeddings import Embedder
from tasks.core.application.session import application_session, other_embedder
from tasks.core.errors import UsageError
from tasks.core.postgres.connections import database_errors
from tasks.core.progress import note
from tasks.core.settings import Settings

MOST_MATCHES = 500
# Of 2,000 files an index with the usual parameters finds 0.98 of the exact first ten among 200 candidates, 0.91 among
# pgvector's default of 40. The upper figure is pgvector's limit of hnsw.ef_search.
_FEWEST_CANDIDATES, _MOST_CANDIDATES = 200, 1000
_ITERATIVE_SCANS = (0, 8)  # the version of pgvector that brought them


@dataclass(frozen=True)
class Match:
    """A file, nearest first. `similarity` is the cosine: 1 is the same direction, about 0 is unrelated."""

    file_path: str
    similarity: float
    language: str | None
    preview: str | None
    tokens_count: int | None


def search(
    settings: Settings,
    text: str,
    limit: int = 10,
    language: str | None = None,
    *,
    embedder: Embedder | None = None,
) -> tuple[Match, ...]:
    """The `limit` files nearest to `text`, of one language where `language` names it. Writes nothing.

    Raises UsageError for an empty question or a limit out of range, OpsError where the tables are missing or hold
    vectors of another embedder.
    """
    if not text.strip():
        raise UsageError("there is nothing to search for", hint='kg search ENVIRONMENT "parse a json document"')
    if not 1 <= limit <= MOST_MATCHES:
        raise UsageError(f"{limit} is no number of matches to ask for", hint=f"1 to {MOST_MATCHES}")
    with nullcontext(embedder) if embedder else chosen_embedder(settings) as embedder:
        vector = "[" + ",".join(map(str, embedder.embed([text])[0].tolist())) + "]"
    tuning = {"candidates": str(min(_MOST_CANDIDATES, max(_FEWEST_CANDIDATES, 2 * limit)))}
    with application_session(settings, "search") as (conn, version), database_errors("searching"):
        with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query("tune_search"), {**tuning, "iterative": _number(version) >= _ITERATIVE_SCANS})
            unnamed = settings.application.unnamed_embedder
            question = {"vector": vector, "language": language, "limit": limit, "unnamed": unnamed}
            rows = cursor.execute(query("nearest_files"), question).fetchall()
        if not rows and conn.execute(query("any_file_indexed")).fetchone() == (False,):
            note(f"nothing is indexed yet: kg index {settings.environment} PATH")
    # What is found is looked at, not the whole table: indexing keeps it of one make.
    for row in rows:
        if row["embedder"] != embedder.name:
            raise other_embedder(row["embedder"], embedder, settings)
    return tuple(
        Match(row["file_path"], row["similarity"], row["language"], row["content_preview"], row["tokens_count"])
        for row in rows
    )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
