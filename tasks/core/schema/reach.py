"""What a migration would reach beyond its own transaction and database. A plan tries migrations where nothing of them
remains, and a rehearsal on a copy: what a rollback does not take back, or another database feels, is refused or told.

Only what the file says is seen; a function that is called may do the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tasks.core.errors import MigrationFailed
from tasks.core.schema.statements import Statement

# PostgreSQL runs these in no transaction, hence in no plan: said before anything runs.
_SERVERS = re.compile(r"\b(alter system|(?:create|drop) database|(?:create|alter|drop) tablespace)\b")
# Roles and the settings of databases are transactional, and belong to the whole server all the same.
_CLUSTER = re.compile(
    r"\b((?:create|alter|drop) (?:role|group|user)(?! mapping)|alter database|(?:reassign|drop) owned)\b"
)
_PROGRAM = re.compile(r"\bcopy\b.*\b(to|from) program\b", re.DOTALL)
_TO_FILE = re.compile(r"\bcopy\b.*\bto (e|u&)?'", re.DOTALL)
# Functions of PostgreSQL and its contrib modules whose work a rollback leaves standing.
_LASTING = re.compile(
    r"\b(pg_(?:terminate|cancel)_backend|pg_reload_conf|pg_rotate_logfile|pg_promote|pg_switch_wal|pg_file_write"
    r"|pg_create_(?:physical|logical)_replication_slot|pg_drop_replication_slot|pg_create_restore_point|lo_export"
    r"|pg_stat_reset|pg_stat_statements_reset|dblink_exec)\b"
)
_RUNS = frozenset({"call", "copy", "delete", "do", "explain", "insert", "merge", "select", "update", "values", "with"})


def refuse_reaching(parts: Sequence[Statement], name: str) -> None:
    """Raises MigrationFailed, with its place, for what no plan can try without doing it."""
    for part in parts:
        if what := _lasting(part):
            raise MigrationFailed(
                f"{name}:{part.line}:{part.column}: {what} in a migration",
                hint="do it by hand, beside the deploy: no rollback takes it back, and a plan that only tries the "
                "migration would do it",
            )


def cluster_wide(parts: Sequence[Statement]) -> Iterator[tuple[Statement, str]]:
    """The statements that change what belongs to the whole server, with their first words."""
    for part in parts:
        if found := _begins(_CLUSTER, part):
            yield part, found


def _lasting(part: Statement) -> str:
    if server := _begins(_SERVERS, part):
        return f"{server}, which is the server's and in no transaction,"
    if not _runs(part):
        return ""
    said = _text(part) if part.words[0] in ("copy", "do") else " ".join(part.words)
    if found := _LASTING.search(said):
        return f"{found[1]}(), whose work outlasts a rollback,"
    if _PROGRAM.search(said):
        return "COPY ... PROGRAM"
    return "COPY ... TO a file of the server" if _TO_FILE.search(said) else ""


def _runs(part: Statement) -> bool:
    """Does it run what stands in it at once, or keep it for later (a view, a function)?"""
    makes_table = part.words[:1] == ("create",) and "table" in part.words[1:3] and "as" in part.words
    return makes_table or (part.words[:1] != () and part.words[0] in _RUNS)


def _begins(pattern: re.Pattern[str], part: Statement) -> str:
    """What a statement is, or what one of a block's may be."""
    found = pattern.search(_text(part)) if part.words[:1] == ("do",) else pattern.match(" ".join(part.words))
    return found[1].upper() if found else ""


def _text(part: Statement) -> str:
    return " ".join(part.text.lower().split())
