"""Hazards of a migration's statements, found by squawk (https://squawkhq.com), a linter that comes as one binary."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.core import commands
from tasks.core.errors import CommandFailed
from tasks.core.schema.migrations import Migration
from tasks.core.schema.reach import cluster_wide

_TIMEOUT = 30.0  # seconds; it takes milliseconds

# Rules about what kg itself does (timeouts, the transaction), and about taste rather than danger.
_LEFT_OUT = (
    "prefer-bigint-over-int",
    "prefer-bigint-over-smallint",
    "prefer-identity",
    "prefer-robust-stmts",
    "prefer-text-field",
    "prefer-timestamp-tz",
    "require-lock-timeout",
    "require-statement-timeout",
)


@dataclass(frozen=True)
class Hazard:
    """Where (from 1), which rule, what may happen, and what to do instead."""

    line: int
    column: int
    rule: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Linted:
    """`linter` says what looked ("squawk 2.70.0"), or why nobody did."""

    linter: str
    hazards: dict[str, tuple[Hazard, ...]]


def lint(migrations: Sequence[Migration], major: int) -> Linted:
    """The hazards of the up scripts by revision, on a server of that major. A linter that is not there, or fails, is a
    word in `linter`, not an error: the plan holds without it.
    """
    ours = {one.revision: _reaching(one) for one in migrations}
    program = _program()
    if program is None:
        return Linted("hazards were not looked for: squawk is not installed here (pip install squawk-cli)", ours)
    try:
        version = commands.run([program, "--version"], timeout=_TIMEOUT).stdout.strip()
        found = {one.revision: (*ours[one.revision], *_hazards(program, one, major)) for one in migrations}
    except (CommandFailed, ValueError, KeyError) as error:
        return Linted(f"hazards were not looked for: {error}", ours)
    return Linted(version, found)


def _reaching(migration: Migration) -> tuple[Hazard, ...]:
    """What no linter of tables knows: the change that every database of the server feels."""
    return tuple(
        Hazard(
            line=statement.line,
            column=statement.column,
            rule="cluster-wide",
            message=f"{what} changes the whole server, every other database on it too; no backup of this one holds it.",
            remedy="Do it by hand, before the deploy.",
        )
        for statement, what in cluster_wide(migration.up_script.statements)
    )


def squawk_argv(program: Path, migration: Migration, major: int) -> list[str | Path]:
    """squawk's words for one file. A configuration file of somebody's in a folder above must not change the plan."""
    argv: list[str | Path] = [program, "--reporter", "json"]
    argv += ["--pg-version", f"{major}.0", *(f"--exclude={rule}" for rule in _LEFT_OUT)]
    if migration.transactional:
        argv.append("--assume-in-transaction")
    return [*argv, "--config", "/dev/null", migration.up]


def _program() -> Path | None:
    """Beside our interpreter, as pip puts it; else on the PATH."""
    beside = Path(sys.executable).parent / "squawk"
    return beside if beside.is_file() else commands.which("squawk")


def _hazards(program: Path, migration: Migration, major: int) -> tuple[Hazard, ...]:
    """squawk ends with 1 where it found something, so what it printed is what counts."""
    done = commands.run(squawk_argv(program, migration, major), timeout=_TIMEOUT, check=False)
    if not done.stdout.strip():
        raise CommandFailed(f"squawk said nothing about {migration.up.name}: {done.stderr.strip()}")
    return tuple(
        Hazard(
            line=int(each["line"]) + 1,
            column=int(each["column"]) + 1,
            rule=str(each["rule_name"]),
            message=str(each["message"]),
            remedy=str(each["help"] or ""),
        )
        for each in json.loads(done.stdout)
    )
