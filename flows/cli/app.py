"""The command line: which verbs there are, and in which order `kg --help` shows them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from flows.cli import application, backups, database, release, status, vectors
from flows.cli.answer import fail
from flows.cli.errors import USAGE
from flows.cli.options import flag
from flows.cli.up.verb import up

_LOOK = "Look: nothing is changed, and no flow engine is started"
_CHANGE = "Change the database"
_KEEP = "Keep it safe"
_FILL = "The application's side"
_RUN = "Day by day"


def _paragraphs(text: str | None) -> str:
    """A docstring as help text: each paragraph one line, for the terminal to wrap."""
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


app = typer.Typer(
    name="kg",
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for panel, name, verb in (
    (_LOOK, "status", status.status),
    (_LOOK, "check", database.check),
    (_LOOK, "plan", database.plan),
    (_LOOK, "backups", backups.backups),
    (_LOOK, "approvals", release.approvals),
    (_LOOK, "search", application.search),
    (_CHANGE, "deploy", database.deploy),
    (_CHANGE, "approve", release.approve),
    (_CHANGE, "rollback", database.rollback),
    (_CHANGE, "recover", database.recover),
    (_CHANGE, "reindex", vectors.reindex),
    (_CHANGE, "psql", application.psql),
    (_KEEP, "backup", backups.backup),
    (_KEEP, "restore-drill", backups.restore_drill),
    (_KEEP, "verify", database.verify),
    (_KEEP, "prune", backups.prune),
    (_FILL, "index", application.index),
    (_RUN, "up", up),
):
    app.command(name, help=_paragraphs(verb.__doc__), rich_help_panel=panel)(verb)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"kg {version('kg-operations')}")  # noqa: T201
        raise typer.Exit


_ABOUT = """
Back up, prove, migrate, verify and roll back a PostgreSQL + pgvector knowledge graph.

Start with [bold]kg check dev[/bold], then [bold]kg deploy dev[/bold].

Exit status: 0 done, 1 failed (of status: not safe), 2 usage or configuration, 3 refused, 130 interrupted. With
--json standard output is one JSON document, also of a failure. Flows run against PREFECT_API_URL where it is set,
else against a Prefect server that lives as long as the command.
"""


@app.callback(help=_paragraphs(_ABOUT))
def kg(
    version: Annotated[
        bool, flag("--version", help="Show the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the verb."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit status. Never raises for a user's error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(words or ["--help"], prog_name="kg", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        # A verb answers for its own errors: this is a command line that names none, or names it wrongly.
        return fail(error, json="--json" in words, verbose="--verbose" in words)
    return int(status or 0) if words else USAGE
