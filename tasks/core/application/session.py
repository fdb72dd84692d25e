"""A session in which the application's tables and the vector type have plain names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sql import query
from tasks.core.application.embeddings import Embedder
from tasks.core.errors import OpsError
from tasks.core.postgres.connections import Connection, connect, database_errors, target, vector_extension
from tasks.core.settings import Settings


@contextmanager
def application_session(settings: Settings, purpose: str) -> Iterator[tuple[Connection, str]]:
    """An autocommit session that sees our schema first, then the one pgvector lives in; and pgvector's version.

    Raises OpsError where the tables are not there, ConnectionFailed, DatabaseError.
    """
    schema = settings.database.schema_name
    with connect(target(settings), purpose=purpose, database=settings.database, search_path=[schema]) as conn:
        vector = vector_extension(conn)
        with database_errors("looking for the application's tables"):
            # What we send in binary form is UTF-8, whatever the database's own encoding.
            conn.execute(query("set_setting"), {"name": "client_encoding", "value": "UTF8"})
            if vector.schema and vector.schema != schema:
                conn.execute(query("extend_search_path"), {"schema": vector.schema})
            row = conn.execute(query("application_tables_exist")).fetchone()
        if vector.installed is None or row != (True,):
            raise OpsError(
                f"the tables of the knowledge graph are not in schema {schema} of the {settings.environment} database",
                hint=f"kg deploy {settings.environment}",
            )
        yield conn, vector.installed


def other_embedder(found: str, embedder: Embedder, settings: Settings, which: str = "") -> OpsError:
    """Vectors of two models in one table: nearness would mean nothing. `which`: of its vectors, where not of all."""
    made_by = f"the embedder {found}" if found else "an embedder that they do not name"
    environment = settings.environment
    again = f"kg index {environment} PATH --embed-again embeds a tree anew with {embedder.name}"
    if not found:
        again = "name it as [application] unnamed_embedder, where another program made them"
    elif which:
        again = f"TRUNCATE code_embeddings, code_relationships, and kg index {environment} PATH for each tree"
    key = "unset OPENAI_API_KEY" if settings.openai_key else "set OPENAI_API_KEY where an API's model made them"
    return OpsError(
        f"vectors of the {environment} database{which and ' '}{which} were made by {made_by}, not by {embedder.name}",
        hint=f"{again}; or ask with the embedder that made them: {key}",
    )
