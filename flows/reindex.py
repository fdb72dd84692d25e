"""Vector indexes: does one call for a re-index, with which parameters, and the re-index itself."""

from __future__ import annotations

from contextlib import ExitStack

from prefect import flow

from flows.guard import own_environment
from tasks.core.documents import ReindexDocument
from tasks.core.documents.reindex import TunedItem
from tasks.core.operations.operation import operation
from tasks.core.settings import Environment, load_settings
from tasks.core.vectors.choice import choose
from tasks.recovery import close_earlier, settle_earlier
from tasks.vectors import advise_reindex, rebuild_index, tune_index


@flow(name="reindex", flow_run_name="reindex {environment}")
def reindex(
    environment: Environment,
    apply: bool = False,
    index: str = "",
    m: int = 0,
    ef_construction: int = 0,
    tune: bool = False,
) -> ReindexDocument:
    """Advise on every vector index: growth since its build, latency and recall of real probes, parameters, bloat.

    With `apply` build anew what calls for it: beside the old index, proved against it, then swapped by name. Searches
    are never without an index, and at every failure the old one serves. Without the engine: `kg reindex ENVIRONMENT`.

    Args:
        environment: Which environment's indexes.
        apply: Build anew; otherwise nothing is changed.
        index: Only this one, whether advice calls for it or not. Empty means all that call for it.
        m: Neighbours of a vector in the new index. 0 means by advice.
        ef_construction: Candidates looked at while it is built. 0 means by advice.
        tune: Measure parameters on a sample first, and build with the best of them.
    """
    own_environment(environment)
    with ExitStack() as held:
        if apply:
            held.enter_context(operation(load_settings(environment), "reindex"))
            settle_earlier(environment)
        advice = advise_reindex(environment)
        tuned: list[TunedItem] = []
        best: dict[str, tuple[int, int]] = {}
        for name in [one.name for one in advice if tune and (one.name == index if index else one.of_revision)]:
            candidates, found = tune_index(environment, name)
            tuned += [TunedItem.of(name, one, best=one == found) for one in candidates]
            if found:
                best[name] = found.m, found.ef_construction
        chosen = choose(advice, index=index, m=m, ef_construction=ef_construction, tuned=best)
        rebuilt = [rebuild_index(environment, one) for one in chosen] if apply else []
        if apply:
            close_earlier(environment)
    return ReindexDocument.of(environment, advice, rebuilt=rebuilt, tuned=tuned, applied=apply)
