"""The flows as a test runs them: in this process, on dev."""

from __future__ import annotations

from typing import Any

from psycopg.sql import SQL, Identifier

from tasks.core.documents import BackupDocument, DeployDocument, RollbackDocument
from tasks.core.postgres.connections import Connection


def deploy(plan: str = "") -> DeployDocument:
    from flows.deploy import deploy as flow

    return flow(environment="dev", plan=plan)


def rollback(**options: Any) -> RollbackDocument:
    from flows.rollback import rollback as flow

    return flow(environment="dev", **options)


def backup() -> BackupDocument:
    from flows.backup import backup as flow

    return flow(environment="dev")


def rows(conn: Connection, *table: str) -> int:
    """Rows of `table` (with its schema before it, where that is another); of code_embeddings by default."""
    found = conn.execute(SQL("SELECT count(*) FROM {}").format(Identifier(*(table or ("code_embeddings",))))).fetchone()
    assert found
    return int(found[0])
