"""The options of all verbs: one name and one meaning each, whichever verb takes them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

import typer


class StrategyName(StrEnum):
    """How rollback goes back. The values are those of documents.Strategy."""

    AUTO = "auto"
    REVERT = "revert"
    RESTORE = "restore"
    RESET = "reset"


@dataclass(frozen=True)
class Output:
    """How a verb answers: one JSON document or text, with or without the log and tracebacks."""

    json: bool
    verbose: bool


def flag(*names: str, **options: Any) -> Any:
    """An option that takes no value: its help names no type either."""
    return typer.Option(*names, metavar="", **options)


EnvironmentName = Annotated[
    str, typer.Argument(metavar="ENVIRONMENT", help="dev, staging or production.", show_default=False)
]
Json = Annotated[bool, flag("--json", help="Print one JSON document on standard output.")]
Verbose = Annotated[bool, flag("--verbose", help="Show the log, and the traceback of an error.")]
Yes = Annotated[bool, flag("--yes", help="Answer the confirmation with yes.")]
Apply = Annotated[bool, flag("--apply", help="Do it. Without this it is a dry run.")]
TerminateIdleBlockers = Annotated[
    bool,
    flag(
        "--terminate-idle-blockers",
        help="End sessions that block a migration by idling in a transaction beyond the environment's limit.",
    ),
]
Remote = Annotated[
    bool, flag("--remote", help="As a run of its deployment, by the worker of `kg up` or yours; follow it.")
]
Now = Annotated[bool, flag("--now", help="Do not wait for a maintenance window. Needs --reason.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="With --now: why. Written into the ledger.")]
Why = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why. Written into the database's journal.")]
StarterName = Annotated[
    str,
    typer.Option(
        "--name", metavar="NAME", envvar="KG_NAME", help="Who starts it: no approver of it. Default: the login name."
    ),
]
SalvageRows = Annotated[
    bool,
    flag("--salvage", help="Carry rows written since over a restore: exported, applied again where they fit."),
]
WholeDatabase = Annotated[
    bool,
    flag("--whole-database", help="With restore: everything in it, not only our tables. Ends every session."),
]
Terminate = Annotated[bool, flag("--terminate", help="End the sessions of the dead run instead of waiting for them.")]
BackupId = Annotated[
    str | None,
    typer.Option("--backup", metavar="ID", help="A backup of `kg backups`. Default: the newest proved one."),
]
DrillBackupId = Annotated[
    str | None, typer.Option("--backup", metavar="ID", help="A backup of `kg backups`. Default: the newest one.")
]
ListedId = Annotated[
    str | None, typer.Argument(metavar="ID", help="With --verify: only this backup.", show_default=False)
]
VerifyBackups = Annotated[bool, flag("--verify", help="Read them back: checksums, zstd frame, table of contents.")]
BackupFormat = Annotated[
    Literal["as-set", "binary", "portable"],
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="as-set: the TOML's; binary: large vector tables by COPY; portable: all through pg_dump.",
    ),
]
KeepId = Annotated[str | None, typer.Option("--keep", metavar="ID", help="Exempt a backup from every prune.")]
UnkeepId = Annotated[str | None, typer.Option("--unkeep", metavar="ID", help="Take that mark away.")]
StrategyOption = Annotated[
    StrategyName,
    typer.Option("--strategy", metavar="WAY", help="auto, revert, restore or reset.", case_sensitive=False),
]
BackTo = Annotated[
    str | None,
    typer.Option("--to", metavar="REVISION", help="Revert to it, like 001 or none. Default: the newest deploy only."),
]
NoProbes = Annotated[
    bool, flag("--no-probes", help="Compare only; leave out the live probes, which write and roll back.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="How many files at most.")]
Language = Annotated[str | None, typer.Option("--language", help="Only files in this language, like python.")]
SourceTree = Annotated[
    str | None, typer.Argument(metavar="PATH", help="The source tree. Default: index_command.", show_default=False)
]
EmbedAgain = Annotated[
    bool, flag("--embed-again", help="Also unchanged files, where another embedder made their vectors.")
]
SearchText = Annotated[str, typer.Argument(metavar="TEXT", help="What the code should do.", show_default=False)]
PsqlWords = Annotated[list[str] | None, typer.Argument(metavar="-- WORDS", help="Passed to psql.", show_default=False)]
