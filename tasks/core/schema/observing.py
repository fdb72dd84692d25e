"""What a migration does while it runs: how long each statement takes, how many rows it touches, and which locks it
takes on tables that were there before, read from pg_locks in its own transaction.

Never on the target itself, where the reading would be the doing: on a restored copy, or a scratch database where the
applied migrations ran before. A scratch *schema* in a transaction of the target cannot tell: that transaction has made
the tables itself and holds every lock on them already.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sql import query
from tasks.core.postgres.connections import Connection
from tasks.core.schema.scripts import Script
from tasks.core.schema.statements import Statement

_KINDS = ("inserted", "updated", "deleted")
_EXCERPT = 100  # characters of a statement that are shown

# Lock mode, strongest first -> who waits while it is held. https://www.postgresql.org/docs/current/explicit-locking.html
WAITS = {
    "AccessExclusiveLock": "reads and writes",
    "ExclusiveLock": "writes",
    "ShareRowExclusiveLock": "writes",
    "ShareLock": "writes",
    "ShareUpdateExclusiveLock": "vacuum and other schema changes",
    "RowExclusiveLock": "other schema changes",
    "RowShareLock": "other schema changes",
}


@dataclass(frozen=True)
class Lock:
    """A lock on a table that was there before. `measured` is false where the mode is PostgreSQL's documented one."""

    table: str
    mode: str
    measured: bool = True

    @property
    def waits(self) -> str:
        return WAITS.get(self.mode, "")

    def strength(self) -> int:
        """Greater for a lock that keeps more sessions waiting."""
        return -list(WAITS).index(self.mode)


@dataclass(frozen=True)
class Observed:
    """One statement: its line, the beginning of its text, its duration, rows touched, and the locks it was first to
    take in its transaction.
    """

    line: int
    text: str
    seconds: float
    rows: int
    locks: tuple[Lock, ...]


@dataclass
class Watch:
    """An observer of one migration's way up in `schema`."""

    schema: str
    statements: list[Observed] = field(default_factory=list)
    changed: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows inserted, updated, deleted by table that was there before, as the server counts them: without what TRUNCATE
    takes away, and nothing of a script outside a transaction.
    """
    _counted: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _tables: list[int] = field(default_factory=list)
    _seen: set[tuple[str, str]] = field(default_factory=set)
    _transactional: bool = True

    def before(self, conn: Connection, script: Script) -> None:
        self._transactional = script.transactional
        self._tables = [row[0] for row in conn.execute(query("tables_of_schema"), {"schema": self.schema})]
        self._seen, self.statements = set(), []
        self.changed, self._counted = {}, self._rows(conn)

    def after(self, conn: Connection, statement: Statement, seconds: float, rows: int) -> None:
        locks = self._locks(conn) if self._transactional else _documented(statement)
        counted = rows if statement.words[:1] in (("insert",), ("update",), ("delete",)) else 0
        self.statements.append(Observed(statement.line, excerpt(statement), round(seconds, 3), counted, locks))
        if self._transactional:
            self._count(conn)

    def _count(self, conn: Connection) -> None:
        for table, now in self._rows(conn).items():
            before = self._counted.get(table, (0, 0, 0))
            found = {kind: new - old for kind, new, old in zip(_KINDS, now, before, strict=True) if new > old}
            if found:
                self.changed[table] = found

    def _rows(self, conn: Connection) -> dict[str, tuple[int, ...]]:
        found = conn.execute(query("rows_changed"), {"tables": self._tables})
        return {str(table): tuple(map(int, counts)) for table, *counts in found}

    def _locks(self, conn: Connection) -> tuple[Lock, ...]:
        held = {(row[0], row[1]) for row in conn.execute(query("locks_held"), {"tables": self._tables})}
        new, self._seen = held - self._seen, held
        return tuple(Lock(table, mode) for table, mode in sorted(new))


def excerpt(statement: Statement) -> str:
    """The statement on one line, its beginning only."""
    text = " ".join(statement.text.split())
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"


def _documented(statement: Statement) -> tuple[Lock, ...]:
    """A statement that commits by itself has given its locks back before anybody could look."""
    words = statement.words
    if not statement.concurrent:
        return ()
    name = words[words.index("on") + 1] if words[:1] == ("create",) and "on" in words else ""
    name = words[words.index("on") + 2] if name == "only" else name
    return (Lock(name or "the index's table", "ShareUpdateExclusiveLock", measured=False),)
