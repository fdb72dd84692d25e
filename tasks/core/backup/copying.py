"""COPY in binary, out of a server and into one, at its own speed: memory constant, and an end to what stalls."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from psycopg import errors
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.sql import Composed

from sql import query
from tasks.core.addresses import Address
from tasks.core.errors import BackupError
from tasks.core.postgres.connections import Connection, connect, database_errors, describe

CHUNK = 1 << 20  # bytes, about
_TICK = 0.5  # seconds between looks whether others have failed


def copy_session(address: Address, purpose: str, longest: timedelta) -> Connection:
    """A session whose text is in the database's own encoding, and whose types are spelled with their schemas."""
    conn = connect(address, purpose=purpose)
    try:
        with database_errors(f"opening a session for {purpose}"):
            values = {
                "client_encoding": conn.info.parameter_status("server_encoding") or describe(conn).encoding,
                "search_path": "pg_catalog",
                "statement_timeout": f"{round(longest.total_seconds() * 1000)}ms",
                "row_security": "off",
                "synchronous_commit": "off",
            }
            for name, value in values.items():
                conn.execute(query("set_setting"), {"name": name, "value": value})
    except BaseException:
        conn.close()
        raise
    return conn


def widen(conn: Connection) -> None:
    """Let the client read megabytes at a time. libpq asks the kernel for as much as its buffer has room for, which is
    16 kB until a longer row has come, and stays as long as that row was.
    """
    with database_errors("making room for the rows"):
        conn.execute(query("wide_row"), {"bytes": CHUNK}).fetchone()


class CopyOut:
    """Iterates over what the statement yields; `rows` afterwards says how many.

    By libpq's own calls: psycopg's Copy takes one turn of its generator for each row, and waits without a limit.
    """

    def __init__(
        self, conn: Connection, statement: Composed, label: str, stall_seconds: float, check: Callable[[], None]
    ) -> None:
        self._conn, self._label, self._stall, self._check = conn, label, stall_seconds, check
        self._statement = statement.as_bytes(conn)
        self._pq = conn.pgconn
        self.rows = 0

    def __iter__(self) -> Iterator[bytes]:
        """Raises DatabaseError, BackupError when nothing comes for too long, and what `check` raises."""
        with database_errors(f"copying the rows of {self._label}"):
            self._pq.send_query(self._statement)
            self._pq.flush()
            self._result(ExecStatus.COPY_OUT)
            pieces: list[memoryview] = []
            size = 0
            while (piece := self._next()) is not None:
                pieces.append(piece)
                size += len(piece)
                if size >= CHUNK:
                    self._check()
                    yield b"".join(pieces)
                    pieces, size = [], 0
            yield b"".join(pieces)
            self.rows = self._result(ExecStatus.COMMAND_OK).command_tuples or 0
            self._pq.get_result()  # nothing more comes: the session is free for another statement

    def _next(self) -> memoryview | None:
        """A row's bytes; None at the end."""
        while True:
            size, piece = self._pq.get_copy_data(1)
            if size > 0:
                return piece
            if size < 0:
                return None
            self._wait()

    def _result(self, wanted: ExecStatus) -> PGresult:
        while self._pq.is_busy():
            self._wait()
        result = self._pq.get_result()
        if result is None:
            raise errors.OperationalError("the server ended the COPY without an answer")
        if result.status != wanted:
            raise errors.error_from_result(result, "utf-8")
        return result

    def _wait(self) -> None:
        began = time.monotonic()
        while not select.select([self._pq.socket], [], [], _TICK)[0]:
            self._check()
            if time.monotonic() - began > self._stall:
                raise BackupError(
                    f"the server sent nothing of {self._label} for {self._stall:.0f} s, and its stream was ended",
                    hint="look at its session in pg_stat_activity; backup.stall_timeout sets how long is waited",
                )
        self._pq.consume_input()
