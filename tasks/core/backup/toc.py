"""An archive's table of contents, read by pg_restore --list from the archive's head as the bytes pass by."""

from __future__ import annotations

import contextvars
import hashlib
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tasks.core import commands
from tasks.core.backup.contents import Table
from tasks.core.backup.manifest import Toc
from tasks.core.errors import BackupError
from tasks.core.postgres.tools import Tools

# dump id; catalog's oid, object's oid, and then: kind schema name owner
_ENTRY = re.compile(r"\d+; \d+ \d+ (?P<what>.+)")
_LIST_TIMEOUT = 600.0  # seconds for a table of contents; a large schema takes a few
_ROWS = "TABLE DATA "


@dataclass(frozen=True)
class Contents:
    """The lines that pg_restore --list prints for an archive's entries."""

    lines: tuple[str, ...]

    @property
    def entries(self) -> tuple[str, ...]:
        """Without the numbers, sorted: the same for the same objects."""
        matches = (_ENTRY.fullmatch(line) for line in self.lines)
        return tuple(sorted(match["what"] for match in matches if match))

    @property
    def toc(self) -> Toc:
        return Toc(entries=len(self.entries), sha256=hashlib.sha256("\n".join(self.entries).encode()).hexdigest())

    def has(self, what: str) -> bool:
        """Is there an entry that begins so: "EXTENSION - vector"?"""
        return any(entry.startswith(f"{what} ") for entry in self.entries)

    def without(self, unwanted: Iterable[str]) -> str:
        """A list for pg_restore --use-list that leaves out entries that begin so."""
        beginnings = tuple(f"{each} " for each in unwanted)
        matches = ((line, _ENTRY.fullmatch(line)) for line in self.lines)
        kept = [line for line, match in matches if match and not match["what"].startswith(beginnings)]
        return "\n".join(kept) + "\n"

    def check_tables(self, tables: Iterable[Table]) -> None:
        """Raises BackupError unless exactly these tables' rows are in the archive."""
        expected = {f"{_ROWS}{_plain(t.schema)} {_plain(t.name)} {_plain(t.owner)}" for t in tables if t.has_rows}
        found = {entry for entry in self.entries if entry.startswith(_ROWS)}
        if missing := sorted(expected - found):
            raise BackupError(f"pg_dump left out the rows of {missing[0].removeprefix(_ROWS)}, which was counted")
        if extra := sorted(found - expected):
            raise BackupError(f"pg_dump dumped the rows of {extra[0].removeprefix(_ROWS)}, which was not counted")


class TocReader:
    """Fed with an archive's bytes from the start; takes as many as the table of contents needs."""

    def __init__(self, child: commands.Running) -> None:
        self._child = child
        self._output = b""
        self._hungry = True
        # A thread: pg_restore's list may fill its pipe while we still fill the one to it.
        reader = contextvars.copy_context().run
        self._reader = threading.Thread(target=reader, args=(self._drain,), daemon=True)
        self._reader.start()

    def feed(self, chunk: bytes) -> bool:
        """False once no more is wanted."""
        if self._hungry:
            try:
                self._child.stdin.write(chunk)
            except BrokenPipeError:
                self._stop()
        return self._hungry

    def contents(self) -> Contents:
        """To be called after the last byte was fed."""
        self._stop()
        self._reader.join(timeout=_LIST_TIMEOUT)
        lines = self._output.decode(errors="replace").splitlines()
        return Contents(tuple(line for line in lines if not line.startswith(";") and line))

    def _stop(self) -> None:
        self._hungry = False
        with suppress(BrokenPipeError):  # it had read all it wanted
            self._child.stdin.close()

    def _drain(self) -> None:
        self._output = self._child.stdout.read()


@contextmanager
def toc_reader(tools: Tools) -> Iterator[TocReader]:
    """Raises CommandFailed at the block's end where what was fed is no archive that these tools can read."""
    with commands.stream([tools.pg_restore, "--list"], timeout=None, stdin=True) as child:
        yield TocReader(child)


def _plain(name: str) -> str:
    """As pg_restore prints a name: one line."""
    return name.replace("\n", " ").replace("\r", " ")
