"""Migrations: found in their folder and checked, carried into a database, and taken back out of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import OpsError, Refused
from tasks.core.postgres.connections import Connection
from tasks.core.schema.execution import Callback, Observer, run_script
from tasks.core.schema.scripts import IRREVERSIBLE, Script, read_script
from tasks.core.schema.statements import Statement, split_statements
from tasks.core.settings import DatabaseSettings

_FILE = re.compile(r"(?P<revision>\d{3,})_(?P<name>[a-z0-9]+(?:_[a-z0-9]+)*)\.(?P<way>up|down)\.sql")


@dataclass(frozen=True)
class Migration:
    """A revision: its number as written ("001"), its name, and its way up and back (None: irreversible)."""

    revision: str
    name: str
    up_script: Script
    down_script: Script | None

    @property
    def up(self) -> Path:
        return self.up_script.path

    @property
    def down(self) -> Path | None:
        return self.down_script.path if self.down_script else None

    @property
    def sql(self) -> str:
        return self.up_script.sql

    @property
    def checksum(self) -> str:
        return self.up_script.checksum

    @property
    def down_checksum(self) -> str | None:
        return self.down_script.checksum if self.down_script else None

    @property
    def transactional(self) -> bool:
        return self.up_script.transactional

    @property
    def irreversible(self) -> bool:
        return IRREVERSIBLE in self.up_script.directives

    @property
    def label(self) -> str:
        return f"{self.revision}_{self.name}"


def load_migrations(folder: Path) -> tuple[Migration, ...]:
    """The migrations of `folder`, lowest revision first; files that do not end in .sql are not ours.

    Raises OpsError for a missing folder, misnamed files, a number used twice and a missing or superfluous down
    script, MigrationFailed (file:line:column) for what cannot be split into statements.
    """
    if not folder.is_dir():
        raise OpsError(f"{folder} is not a folder of migrations", hint="KG_MIGRATIONS names it where it is another")
    paths = sorted(folder.glob("*.sql"))
    for path in paths:
        if not _FILE.fullmatch(path.name):
            raise OpsError(
                f"{path.name} is not named like a migration",
                hint="name it 002_add_something.up.sql, with 002_add_something.down.sql beside it",
            )
    found = _by_label(paths)
    _refuse_duplicates(found)
    return tuple(sorted((_migration(label, ways) for label, ways in found.items()), key=_order))


def readable_migrations(folder: Path, needed: Collection[str]) -> tuple[tuple[Migration, ...], str]:
    """As load_migrations, for whoever looks or goes back: a file that is merely pending must hinder neither. What is
    refused, and not among `needed` (labels like "001_first"), is left out; with the first reason, or "".

    Raises what load_migrations raises for the `needed` ones, and for a missing folder.
    """
    try:
        return load_migrations(folder), ""
    except OpsError as refused:
        if not folder.is_dir():
            raise
        found = _by_label(folder.glob("*.sql"))
        return tuple(sorted(_readable(found, needed), key=_order)), refused.message


def _readable(found: Mapping[str, dict[str, Path]], needed: Collection[str]) -> Iterator[Migration]:
    taken = {int(label.split("_", 1)[0]) for label in needed}
    numbers = Counter(int(label.split("_", 1)[0]) for label in found)
    for label, ways in found.items():
        number = int(label.split("_", 1)[0])
        if label in needed:
            yield _migration(label, ways)
        elif number not in taken and numbers[number] == 1:
            with suppress(OpsError):
                yield _migration(label, ways)


def apply(
    conn: Connection,
    migration: Migration,
    database: DatabaseSettings,
    record: Callback,
    *,
    before: Callback | None = None,
    observer: Observer | None = None,
) -> None:
    """Run the up script in the schema that `database` names. `record(conn)` writes the ledger row in the same
    transaction, before its COMMIT, `before(conn)` looks around before the first statement: what they raise undoes the
    migration. `observer` looks on. `conn` is idle and has its settings back afterwards.

    Raises MigrationFailed with "file:line:column: message (SQLSTATE)".
    """
    run_script(conn, migration.up_script, database, record, before, observer)


def revert(
    conn: Connection,
    migration: Migration,
    database: DatabaseSettings,
    record: Callback,
    *,
    before: Callback | None = None,
) -> None:
    """Run the down script, likewise. Raises Refused where there is none."""
    if migration.down_script is None:
        raise Refused(
            f"migration {migration.label} is irreversible: it has no down script",
            hint="its way back is a restore: `kg rollback ENVIRONMENT --strategy restore`",
        )
    run_script(conn, migration.down_script, database, record, before)


def statements(sql: str, name: str = "migration") -> list[Statement]:
    """The statements of `sql`, each with its line; see statements.py for what is refused."""
    return split_statements(sql, name)


def _by_label(paths: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """The two files of each migration; what is named otherwise is left out."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(paths):
        if match := _FILE.fullmatch(path.name):
            found.setdefault(f"{match['revision']}_{match['name']}", {})[match["way"]] = path
    return found


def _order(migration: Migration) -> int:
    return int(migration.revision)


def _refuse_duplicates(labels: dict[str, dict[str, Path]]) -> None:
    seen: dict[int, str] = {}
    for label in labels:
        number = int(label.split("_", 1)[0])
        if number in seen:
            raise OpsError(
                f"two migrations have the number {number}: {seen[number]} and {label}",
                hint="give the one that is applied nowhere yet the next free number",
            )
        seen[number] = label


def _migration(label: str, ways: dict[str, Path]) -> Migration:
    revision, name = label.split("_", 1)
    if "up" not in ways:
        raise OpsError(f"{ways['down'].name} has no up script", hint=f"add {label}.up.sql or remove it")
    up, down = read_script(ways["up"], "up"), read_script(ways["down"], "down") if "down" in ways else None
    if down is None and IRREVERSIBLE not in up.directives:
        raise OpsError(
            f"{up.path.name} has no down script",
            hint=f"add {label}.down.sql; where the way back is a restore, say `-- migrate: irreversible` at its top",
        )
    if down is not None and IRREVERSIBLE in up.directives:
        raise OpsError(
            f"{up.path.name} says irreversible, but {down.path.name} is there",
            hint="remove the one that is wrong: a down script does not bring data back",
        )
    return Migration(revision, name, up, down)
