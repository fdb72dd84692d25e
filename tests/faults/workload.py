"""Readers and writers that go on through everything, and know which of their rows were committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psycopg

from tasks.core.addresses import Address
from tasks.core.errors import DatabaseError
from tasks.core.postgres.connections import Connection, connect

WRITE = "INSERT INTO code_embeddings (file_path, file_hash, language) VALUES (%s, 'written', 'python')"
READ = "SELECT count(*) FROM code_embeddings"


class Workload:
    """`writers` and `readers` threads until the block ends. `stall` is the longest that one statement took, in s."""

    def __init__(
        self, address: Callable[[], Address], *, writers: int = 2, readers: int = 2, pause: float = 0.01
    ) -> None:
        self._address, self._pause, self._over = address, pause, threading.Event()
        self.committed: set[str] = set()
        self.stall, self.statements, self.errors = 0.0, 0, 0
        self._threads = [threading.Thread(target=self._run, args=(self._write, number)) for number in range(writers)]
        self._threads += [threading.Thread(target=self._run, args=(self._read, number)) for number in range(readers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[Connection, int, int], None], number: int) -> None:
        """Connect, work until something breaks, and connect again, as an application with a pool does."""
        count = 0
        began = time.monotonic()  # a stall counts over reconnections: until a statement has come through
        while not self._over.is_set():
            try:
                with connect(self._address(), purpose="workload") as conn:
                    conn.execute("SET application_name = 'application'")
                    while not self._over.is_set():
                        count += 1
                        work(conn, number, count)
                        self.stall = max(self.stall, time.monotonic() - began)
                        self.statements += 1
                        time.sleep(self._pause)
                        began = time.monotonic()
            except (psycopg.Error, DatabaseError):
                self.errors += 1
                time.sleep(0.05)

    def _write(self, conn: Connection, number: int, count: int) -> None:
        name = f"written-{number}-{count}"
        conn.execute(WRITE, (name,))
        self.committed.add(name)

    def _read(self, conn: Connection, number: int, count: int) -> None:
        conn.execute(READ).fetchone()
