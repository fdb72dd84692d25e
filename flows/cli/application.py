"""The application's side: index, search, and a psql on its database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli import render
from flows.cli.answer import answer, fail
from flows.cli.options import (
    EmbedAgain,
    EnvironmentName,
    Json,
    Language,
    Limit,
    Output,
    PsqlWords,
    SearchText,
    SourceTree,
    Verbose,
)
from tasks.core.errors import UsageError

if TYPE_CHECKING:
    from tasks.core.documents import CommandDocument, IndexDocument, SearchHit


def index(
    environment: EnvironmentName,
    path: SourceTree = None,
    embed_again: EmbedAgain = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Index a source tree: an embedding of each file, and what imports what. Unchanged files are skipped.

    With OPENAI_API_KEY set the API's model makes the embeddings, within OPENAI_MAX_DAILY_COST. Without PATH the
    environment's own index_command runs instead.
    """

    def work() -> IndexDocument | CommandDocument:
        if path is None:
            return _index_command(environment)
        if not path:  # as an unset shell variable leaves it; a Path of it would be the current folder
            raise UsageError("PATH is empty", hint=f"name the source tree: kg index {environment} .")
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        from tasks.core.application.index import index
        from tasks.core.documents import IndexDocument

        return IndexDocument.of(settings.environment, index(settings, Path(path), embed_again=embed_again))

    return answer(Output(json, verbose), work, render.index)


def _index_command(environment: str) -> CommandDocument:
    from tasks.core.settings import load_settings

    settings = load_settings(environment)
    from tasks.core.application.own_commands import run_index_command
    from tasks.core.documents import CommandDocument
    from tasks.core.progress import note, track

    with track("index-command", "Index by index_command"):
        run = run_index_command(settings, note)
    return CommandDocument(environment=settings.environment, command=run.command, seconds=run.seconds)


def search(
    environment: EnvironmentName,
    text: SearchText,
    limit: Limit = 10,
    language: Language = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Find the files whose code comes nearest to a description."""

    def work() -> list[SearchHit]:
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        from tasks.core.application.search import search
        from tasks.core.documents import SearchHit

        return [SearchHit.of(hit) for hit in search(settings, text, limit=limit, language=language)]

    return answer(Output(json, verbose), work, render.search)


def psql(environment: EnvironmentName, words: PsqlWords = None) -> int:
    """Open psql on the environment's database, the embedded one too. What follows `--` goes to psql."""
    try:
        return _psql(environment, words or [])
    except Exception as error:
        return fail(error, json=False, verbose=False)


def _psql(environment: str, words: list[str]) -> int:
    from tasks.core.commands import hand_over
    from tasks.core.errors import CommandMissing
    from tasks.core.postgres.connections import connect, describe, target
    from tasks.core.postgres.tools import tools_for
    from tasks.core.settings import load_settings

    settings = load_settings(environment)
    address = target(settings)
    with connect(address, purpose="psql") as conn:
        tools = tools_for(describe(conn).major, settings.home)
    if tools.psql is None:
        raise CommandMissing("there is no psql", hint="apt install postgresql-client")
    return hand_over([tools.psql, *words], env={**address.environment(), "PGAPPNAME": "psql by kg"})
