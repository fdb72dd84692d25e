"""The verb for vector indexes: reindex."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import tables
from flows.cli.answer import answer
from flows.cli.display import duration
from flows.cli.options import Apply, EnvironmentName, Json, Output, Verbose, flag
from tasks.core.progress import size

if TYPE_CHECKING:
    from tasks.core.documents import ReindexDocument
    from tasks.core.documents.reindex import IndexAdvice, IndexRebuild

Advise = Annotated[bool, flag("--advise", help="Advice only, which is what happens without --apply too.")]
IndexName = Annotated[
    str, typer.Option("--index", metavar="NAME", help="Only this index, whether advice calls for it or not.")
]
Neighbours = Annotated[int, typer.Option("--m", min=0, help="m of the new index. Default: by advice.")]
EfConstruction = Annotated[
    int, typer.Option("--ef-construction", min=0, help="ef_construction of the new index. Default: by advice.")
]
Tune = Annotated[bool, flag("--tune", help="Measure parameters on a sample first; takes minutes.")]

_VERDICTS = {"ok": "✓", "rebuild": "✗", "note": "!", "unknown": "-"}


def reindex(
    environment: EnvironmentName,
    advise: Advise = False,
    apply: Apply = False,
    index: IndexName = "",
    m: Neighbours = 0,
    ef_construction: EfConstruction = 0,
    tune: Tune = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Say which vector indexes should be built anew, and why; with --apply, build them.

    A new index is built beside the old one, proved at a gate, and swapped by name: searches are never without one.
    """

    def work() -> ReindexDocument:
        from tasks.core.errors import UsageError

        if advise and apply:
            raise UsageError("--advise and --apply exclude each other", hint="--advise changes nothing")
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        if not (apply or tune):
            return _advice(settings.environment, index)
        from flows.cli.engine import engine

        with engine() as running:
            from flows.reindex import reindex

            running.ready(settings.environment)
            return reindex(settings.environment, apply, index, m, ef_construction, tune)

    return answer(Output(json, verbose), work, show)


def show(document: ReindexDocument) -> None:
    """A table of what was looked at, and what it comes to."""
    for one in document.indexes:
        _show_advice(document.environment, one)
    if document.tuned:
        _show_tuned(document)
    for done in document.rebuilt:
        _show_rebuilt(done)
    if not document.indexes:
        tables.say("no vector index found")
    elif document.applied and not document.rebuilt:
        tables.say("nothing calls for a re-index; --index NAME builds one all the same")


def _advice(environment: str, index: str) -> ReindexDocument:
    """Without an engine: it only looks."""
    from tasks.core.documents import ReindexDocument
    from tasks.core.settings import load_settings
    from tasks.core.vectors.advice import advise
    from tasks.core.vectors.choice import choose

    settings = load_settings(environment)
    advice = advise(settings)
    named = [one.index for one in choose(advice, index=index)] if index else [one.name for one in advice]
    return ReindexDocument.of(settings.environment, [one for one in advice if one.name in named])


def _show_advice(environment: str, one: IndexAdvice) -> None:
    tables.say(f"{one.name} on {one.table}.{one.column}:")
    rows = [(_VERDICTS[line.verdict], line.what, line.figure, line.why) for line in one.findings]
    tables.table(("", "measure", "found", "why"), rows)
    if one.advice == "keep":
        tables.say("  keep it\n" if one.of_revision else "  somebody's own: told of, and left alone\n")
        return
    wanted = ", ".join(f"{name}={value}" for name, value in one.suggested.items())
    memory = f" (memory of the build: {size(one.build_memory_bytes)})" if one.build_memory_bytes else ""
    tables.say(f"  rebuild with {wanted}{memory}: kg reindex {environment} --apply\n")


def _show_tuned(document: ReindexDocument) -> None:
    rows = [
        (
            "✓" if one.best else "",
            one.index,
            f"m={one.m}, ef_construction={one.ef_construction}",
            f"{one.recall:.3f}, worst {one.recall_minimum:.2f}",
            f"{one.p50_ms:.2f} / {one.p95_ms:.2f} ms",
            duration(one.build_seconds),
            size(one.size_bytes),
        )
        for one in document.tuned
    ]
    tables.say(f"measured on a sample of {document.tuned[0].rows:,} rows (the curve is an artifact of the run):")
    tables.table(("", "index", "parameters", "recall@10", "P50 / P95", "build", "size"), rows)


def _show_rebuilt(done: IndexRebuild) -> None:
    wanted = ", ".join(f"{name}={value}" for name, value in done.parameters.items())
    tables.say(f"built {done.name} anew with {wanted} in {duration(done.build_seconds)}; searches always had an index")
    both = (done.before, done.after)
    rows = [
        ("recall@10", *(f"{one.recall.mean:.3f}, worst {one.recall.minimum:.2f}" if one else "-" for one in both)),
        ("P50 / P95", *(f"{one.p50_ms:.2f} / {one.p95_ms:.2f} ms" if one else "-" for one in both)),
        ("size", size(done.size_bytes_before), size(done.size_bytes_after)),
    ]
    tables.table(("", "before", "after"), rows)
    if done.after:
        from tasks.core.vectors.proving import way

        tables.say(f"  the new one was measured {way(done.after.how)}")
    if done.left:
        tables.say(f"  the old index is still there as {done.left}; the next re-index drops it")
