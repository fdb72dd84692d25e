"""Splits a migration into its statements as psql would, so that each runs, and fails, with a place of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tasks.core.errors import MigrationFailed

_WORD = r"[A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*"
_TOKEN = re.compile(
    rf"""
      (?P<space>\s+)
    | (?P<line_comment>--[^\n]*)
    | (?P<block_comment>/\*)
    | (?P<escape_string>[eE]'(?:''|\\.|[^'\\])*')
    | (?P<string>'(?:''|[^'])*')
    | (?P<identifier>"(?:""|[^"])*")
    | (?P<dollar>\$(?:[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\u0080-\U0010ffff]*)?\$)
    | (?P<word>{_WORD})
    | (?P<unclosed>[eE]?'|")
    | (?P<meta>\\)
    | (?P<number>\d[\w.]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")

# The first word of a statement that begins or ends a transaction; ROLLBACK TO and PREPARE are looked at more closely.
_TRANSACTION_WORDS = {"begin", "start", "commit", "end", "rollback", "abort"}


@dataclass(frozen=True)
class Statement:
    """One statement without its semicolon; `line` and `column` (from 1) are where its first word stands."""

    text: str
    line: int
    column: int
    words: tuple[str, ...] = field(repr=False)

    def place(self, position: int) -> tuple[int, int]:
        """Line and column in the file of the server's `position` (characters, from 1) in this statement."""
        before = self.text[: max(position - 1, 0)]
        newlines = before.count("\n")
        return self.line + newlines, len(before) - before.rfind("\n") if newlines else self.column + len(before)

    @property
    def controls_transaction(self) -> bool:
        if self.words[:2] == ("prepare", "transaction"):
            return True
        savepoint = self.words[:1] == ("rollback",) and "to" in self.words[1:3]
        return self.words[0] in _TRANSACTION_WORDS and not savepoint if self.words else False

    @property
    def concurrent(self) -> bool:
        """Builds, rebuilds or drops an index CONCURRENTLY."""
        return "concurrently" in self.words


def split_statements(sql: str, name: str) -> list[Statement]:
    """The statements of `sql`, comments between them left out. `name` (the file's) leads each error's place.

    Raises MigrationFailed for what only psql can run (meta-commands, COPY FROM STDIN) and for what is never closed.
    """
    return list(_Splitter(sql, name).statements())


class _Splitter:
    """Walks the tokens; a semicolon ends a statement outside parentheses and SQL-standard function bodies."""

    def __init__(self, sql: str, name: str) -> None:
        self.sql, self.name, self.at = sql, name, 0
        self.counted, self.line = 0, 1  # lines up to there: counted once, or a file of 10 MB would take an hour
        if "\0" in sql:
            raise self._error(sql.index("\0"), "a NUL byte, which no statement can hold", hint="take it out")
        self._begin()

    def _begin(self) -> None:
        self.start: int | None = None
        self.words: list[str] = []
        self.parentheses = self.bodies = 0

    def statements(self) -> Iterator[Statement]:
        while self.at < len(self.sql):
            match = _TOKEN.match(self.sql, self.at)
            assert match is not None  # the last alternative takes any character
            kind, text, begin = match.lastgroup, match[0], self.at
            self.at = match.end()
            if kind in ("space", "line_comment"):
                continue
            if kind == "block_comment":
                self._skip_comment(begin)
                continue
            if text == ";" and not self.parentheses and not self.bodies:
                if self.start is not None:
                    yield self._statement(begin)
                self._begin()
                continue
            self.start = begin if self.start is None else self.start
            self._take(kind, text, begin)
        if self.start is not None:
            yield self._statement(len(self.sql))

    def _take(self, kind: str | None, text: str, begin: int) -> None:
        if kind == "word":
            self._count_bodies(text.lower())
        elif kind == "dollar":
            self._skip_dollar_quote(text, begin)
        elif kind == "unclosed":
            raise self._error(begin, "this quote is never closed")
        elif kind == "meta":
            raise self._error(
                begin, "a psql meta-command: it works in psql only", hint="say it in SQL, so that kg can run it too"
            )
        elif text in "()":
            self.parentheses = max(self.parentheses + (1 if text == "(" else -1), 0)

    def _count_bodies(self, word: str) -> None:
        """BEGIN ATOMIC opens a function body whose semicolons are its own; CASE ... END nests in it."""
        if (word == "atomic" and self.words[-1:] == ["begin"]) or (word == "case" and self.bodies):
            self.bodies += 1
        elif self.bodies and word == "end":
            self.bodies -= 1
        self.words.append(word)

    def _skip_comment(self, begin: int) -> None:
        """Block comments nest in PostgreSQL, unlike in the SQL standard."""
        depth = 1
        while depth:
            edge = _COMMENT_EDGE.search(self.sql, self.at)
            if edge is None:
                raise self._error(begin, "this comment is never closed")
            depth += 1 if edge[0] == "/*" else -1
            self.at = edge.end()

    def _skip_dollar_quote(self, tag: str, begin: int) -> None:
        end = self.sql.find(tag, self.at)
        if end < 0:
            raise self._error(begin, f"the quote {tag} is never closed")
        self.at = end + len(tag)

    def _statement(self, end: int) -> Statement:
        assert self.start is not None
        line, column = self._place(self.start)
        words = tuple(self.words)
        if words[:1] == ("copy",) and "stdin" in words:
            raise self._error(self.start, "COPY FROM STDIN: its rows work in psql only", hint="use INSERT ... VALUES")
        return Statement(self.sql[self.start : end].rstrip(), line, column, words)

    def _place(self, at: int) -> tuple[int, int]:
        if at < self.counted:
            self.counted, self.line = 0, 1
        self.line += self.sql.count("\n", self.counted, at)
        self.counted = at
        return self.line, at - self.sql.rfind("\n", 0, at)

    def _error(self, at: int, message: str, hint: str | None = None) -> MigrationFailed:
        line, column = self._place(at)
        return MigrationFailed(f"{self.name}:{line}:{column}: {message}", hint=hint)
