"""One migration file: its directives, its statements, and what keeps it from running as a migration.

    -- migrate: no-transaction     its statements run one by one, outside a transaction (concurrent index builds)
    -- migrate: irreversible       it loses data: there is no down script, its way back is a restore

stand in the file's leading comment lines, in any case. Each file also runs by itself with `psql -f`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.errors import MigrationFailed
from tasks.core.schema.reach import refuse_reaching
from tasks.core.schema.statements import Statement, split_statements

IRREVERSIBLE, NO_TRANSACTION = "irreversible", "no-transaction"

_DIRECTIVE = re.compile(r"\s*--\s*migrate\s*:\s*(?P<word>.*?)\s*$", re.IGNORECASE)
_CONCURRENT_INDEX = re.compile(
    r'\bindex\s+concurrently\s+(?:if\s+(?:not\s+)?exists\s+)?(?:(?:"[^"]+"|[\w$]+)\.)?(?:"(?P<quoted>[^"]+)"|(?P<plain>[\w$]+))',
    re.IGNORECASE,
)
_CHANGES = frozenset({"alter", "delete", "do", "drop", "insert", "merge", "truncate", "update"})
_KNOWN = {"up": (NO_TRANSACTION, IRREVERSIBLE), "down": (NO_TRANSACTION,)}


@dataclass(frozen=True)
class Script:
    """One file, read once: what is checksummed is what runs. `checksum` is the sha256 of its bytes, in hex."""

    path: Path
    sql: str = field(repr=False)
    checksum: str
    directives: frozenset[str]
    statements: tuple[Statement, ...] = field(repr=False)

    @property
    def transactional(self) -> bool:
        return NO_TRANSACTION not in self.directives


def read_script(path: Path, way: str) -> Script:
    """The file at `path`; `way` is "up" or "down". Raises MigrationFailed with file:line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MigrationFailed(
            f"{path} cannot be read: {error.strerror}", hint="make it a file that this user may read"
        ) from error
    try:
        sql = content.decode("utf-8").removeprefix("\ufeff")  # the mark that some editors put first; psql skips it too
    except UnicodeDecodeError as error:
        raise MigrationFailed(f"{path.name} is not UTF-8 (byte {error.start})") from None
    directives = _directives(sql, path.name, way)
    parts = tuple(split_statements(sql, path.name))
    _refuse_transaction_control(parts, path.name)
    _refuse_ours(parts, path.name)
    refuse_reaching(parts, path.name)
    return Script(path, sql, hashlib.sha256(content).hexdigest(), directives, parts)


def concurrent_indexes(script: Script) -> list[str]:
    """Names of the indexes that it builds or drops concurrently: what an interruption can leave INVALID."""
    found = [_CONCURRENT_INDEX.search(statement.text) for statement in script.statements if statement.concurrent]
    return [match["quoted"] or match["plain"].lower() for match in found if match]


def _directives(sql: str, name: str, way: str) -> frozenset[str]:
    """The words after `-- migrate:`, indented or not, in any case. One below the first statement would be overlooked
    by a reader: refused; a remark in a function's body that only begins like one is none.
    """
    words, leading = set(), True
    for number, line in enumerate(sql.splitlines(), start=1):
        leading = leading and (not line.strip() or line.lstrip().startswith("--"))
        match = _DIRECTIVE.match(line)
        if match is None:
            continue
        word = match["word"].lower()
        if not leading:
            if word not in _KNOWN[way] and not line.startswith("--"):
                continue
            raise MigrationFailed(f"{name}:{number}: `-- migrate:` stands below the first statement", hint="move it up")
        if word not in _KNOWN[way]:
            raise MigrationFailed(
                f"{name}:{number}: `-- migrate: {match['word']}` is not known here",
                hint=f"known in {way} scripts: {', '.join(_KNOWN[way])}",
            )
        words.add(word)
    return frozenset(words)


def _refuse_transaction_control(parts: tuple[Statement, ...], name: str) -> None:
    for part in parts:
        if part.controls_transaction:
            raise MigrationFailed(
                f"{name}:{part.line}:{part.column}: {part.words[0].upper()} in a migration",
                hint="leave it out: the file and its ledger row are one transaction; under `-- migrate: "
                "no-transaction` each statement is committed by itself",
            )


def _refuse_ours(parts: tuple[Statement, ...], name: str) -> None:
    """The ledger and the journal are kg's, and so are its session's locks: without them nobody knows what was done."""
    for part in parts:
        named = r"\bkg_ops\b" if part.words[:1] == ("do",) else r"(?<!\')\bkg_ops\b(?!\')"
        if part.words[:1] and part.words[0] in _CHANGES and re.search(named, part.text, re.IGNORECASE):
            what = f"{part.words[0].upper()} of kg_ops, where kg keeps its ledger and journal,"
        elif "pg_advisory_unlock_all" in part.words:
            what = "pg_advisory_unlock_all(), which frees the operation's own lock,"
        else:
            continue
        raise MigrationFailed(
            f"{name}:{part.line}:{part.column}: {what} in a migration",
            hint="leave it out: nobody would know any more what was applied",
        )
