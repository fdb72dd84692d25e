"""Sessions with a server: opened one way everywhere, and what the server says about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from sql import query
from tasks.core.addresses import Address
from tasks.core.errors import ConnectionFailed
from tasks.core.postgres.failures import connection_failed, database_errors
from tasks.core.settings import DatabaseSettings, Settings

__all__ = [
    "Connection",
    "Server",
    "Vector",
    "connect",
    "database_errors",
    "describe",
    "refuse_shared_session",
    "target",
    "vector_extension",
]

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT = 10  # seconds

# An empty word shuts out the PG* variable of the same meaning, which would silently lead us elsewhere; the password
# file still counts where there is no password. commands.environment does the same for our children.
_SHUT_OUT = {"hostaddr": "", "options": "", "password": "", "sslmode": "prefer", "connect_timeout": CONNECT_TIMEOUT}


@dataclass(frozen=True)
class Server:
    """A server and the database of a session."""

    version: str
    """As people say it: "18.6"."""
    version_num: int
    major: int
    encoding: str
    collation: str
    """The database's default: a libc locale's name, or "icu:<locale>", or "builtin:<locale>"."""
    system_identifier: str
    """Empty where the role may not read it."""
    database: str
    role: str
    superuser: bool


@dataclass(frozen=True)
class Vector:
    """pgvector in this database and on this server; None where it is not."""

    installed: str | None
    available: str | None
    schema: str | None


def connect(
    address: Address,
    *,
    purpose: str,
    autocommit: bool = True,
    database: DatabaseSettings | None = None,
    search_path: Sequence[str] = (),
) -> Connection:
    """A session of ours, named "kg <purpose>" in pg_stat_activity, in UTC, with the time limits of `database`.

    The caller closes it (`with connect(...) as conn`, which also commits or rolls back). A statement of ours ends
    within a second of its client on servers from 14. Raises ConnectionFailed, or DatabaseError where the server
    refuses a setting.
    """
    # No pool: an operation has a handful of sessions, and each must be told apart in pg_stat_activity.
    words: dict[str, Any] = {**_SHUT_OUT, **address.keywords(), "application_name": f"kg {purpose}"[:63]}
    # Else psycopg would hand out bytes for the text of an SQL_ASCII database.
    words["client_encoding"] = "UTF8"
    try:
        conn = psycopg.connect(**words, autocommit=True)
    except psycopg.OperationalError as error:
        raise connection_failed(error, address) from error
    try:
        with database_errors(f"opening a session for {purpose}"):
            _dress(conn, database, search_path)
            conn.autocommit = autocommit
    except BaseException:
        conn.close()
        raise
    return conn


def describe(conn: Connection) -> Server:
    """What the server of `conn` is. Raises DatabaseError."""
    with database_errors("reading the server's version"), conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query("describe_server")).fetchone()
        assert row is not None
        # Apart from the rest: the server checks this function's privilege even where a CASE would skip its call.
        control = cursor.execute(query("system_identifier")).fetchone() if row.pop("may_read_control") else None
    number = row["version_num"]
    return Server(
        version=f"{number // 10000}.{number % 10000}",
        major=number // 10000,
        system_identifier=control["system_identifier"] if control else "",
        **row,
    )


def role_of(conn: Connection) -> str:
    """The role that the server checks rights for, as an administrator's statement must name it: a pooler's clients call
    it otherwise, and SET ROLE makes it another. In a failed transaction, who logged in.
    """
    if conn.info.transaction_status in (TransactionStatus.IDLE, TransactionStatus.INTRANS):
        row = conn.execute(query("database_and_role")).fetchone()
        return str(row[1] if row else conn.info.user)
    return conn.info.parameter_status("session_authorization") or conn.info.user


def vector_extension(conn: Connection) -> Vector:
    """Where pgvector is. Raises DatabaseError."""
    with database_errors("looking for pgvector"), conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(query("vector_extension")).fetchone()
    assert row is not None
    return Vector(**row)


def refuse_shared_session(conn: Connection, address: Address) -> None:
    """Raises ConnectionFailed where `address` is a transaction pooler's, whatever its port: there our settings and
    locks would lie on a session that others are given between two statements of ours. `conn` is idle.

    Seen by two connections, both open, that are served by one process of the server.
    """
    with database_errors("asking which process of the server serves us"):
        mine = conn.execute(query("backend_pid")).fetchone()
        with connect(address, purpose="look for a pooler") as other:
            shared = other.execute(query("backend_pid")).fetchone() == mine
    if shared:
        raise ConnectionFailed(
            f"{address.host}:{address.port} is a transaction pooler, which keeps no session",
            hint="use the session pooler (on Supabase port 5432 of the pooler's host) or the direct host",
        )


def target(settings: Settings) -> Address:
    """The database that `settings` name; where they name none, the embedded server, started or joined.

    Raises what `embedded.ensure` raises.
    """
    if settings.address is not None:
        return settings.address
    from tasks.core.postgres import embedded  # not needed, hence not loaded, where an address is given

    return embedded.ensure(settings.home)


def _dress(conn: Connection, database: DatabaseSettings | None, search_path: Sequence[str]) -> None:
    # By query and not by the `options` keyword: poolers drop that one.
    conn.execute(query("start_session"))
    limits = {}
    if database:
        limits = {
            "statement_timeout": _milliseconds(database.statement_timeout),
            "lock_timeout": _milliseconds(database.lock_timeout),
        }
    if search_path:
        limits["search_path"] = SQL(", ").join(map(Identifier, search_path)).as_string(conn)
    for name, value in limits.items():
        conn.execute(query("set_setting"), {"name": name, "value": value})


def _milliseconds(length: timedelta) -> str:
    return f"{round(length.total_seconds() * 1000)}ms"
