"""The journal in schema kg_ops of the target: which operation is under way, at which step, and how each one ended.

Each line is committed before the step it announces, so that after a crash the next run knows where this one stood.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from sql import query
from tasks.core.postgres.connections import Connection

Kind = Literal["backup", "restore-drill", "deploy", "rollback", "reindex", "prune", "recover"]
EndState = Literal["done", "failed", "rolled-back"]


@dataclass(frozen=True)
class Unfinished:
    """An operation that never said how it ended. `step` and `step_state` are its last journal line."""

    id: UUID
    kind: str
    started_at: datetime
    host: str
    pid: int
    detail: dict[str, Any]
    step: str | None
    step_state: str | None


@dataclass(frozen=True)
class Ended:
    """How an operation ended; `at` is when it began where its process died."""

    kind: str
    state: str
    at: datetime
    interrupted: bool


def begin(conn: Connection, operation: UUID, kind: Kind, environment: str) -> int:
    """Raise the fence and write the operation's row, in one transaction. Returns the fencing number."""
    with conn.transaction():
        row = conn.execute(query("raise_fence")).fetchone()
        assert row, "kg_ops.fence has its one row from the start"
        values = {
            "id": operation,
            "kind": kind,
            "environment": environment,
            "fence": row[0],
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "detail": Jsonb({}),
        }
        conn.execute(query("begin_operation"), values)
    return int(row[0])


def write(conn: Connection, operation: UUID, step: str, state: str, detail: dict[str, Any]) -> None:
    values = {"operation": operation, "step": step, "state": state, "detail": Jsonb(detail)}
    conn.execute(query("write_journal"), values)


def describe(conn: Connection, operation: UUID, detail: dict[str, Any]) -> None:
    conn.execute(query("describe_operation"), {"id": operation, "detail": Jsonb(detail)})


def finish(conn: Connection, operation: UUID, state: EndState, detail: dict[str, Any]) -> None:
    conn.execute(query("finish_operation"), {"id": operation, "state": state, "detail": Jsonb(detail)})


def unfinished(conn: Connection, own: UUID) -> tuple[Unfinished, ...]:
    """Operations in state running that are not `own`; with the operation lock held, these are dead."""
    return tuple(Unfinished(*row) for row in conn.execute(query("unfinished_operations"), {"own": own}))


def last_change(conn: Connection) -> Ended | None:
    """The newest deploy or rollback that has ended, whichever way; one that was refused did nothing."""
    row = conn.execute(query("last_change")).fetchone()
    return Ended(*row) if row else None


def abandon(conn: Connection, operation: UUID) -> None:
    conn.execute(query("abandon_operation"), {"id": operation})
