"""Tasks of the reindex flow: advise, tune, build anew."""

from __future__ import annotations

from tasks.artifacts import advice_artifact
from tasks.core.operations.operation import current
from tasks.core.progress import say
from tasks.core.settings import Environment, load_settings
from tasks.core.vectors import tune
from tasks.core.vectors.advice import Advice, advise
from tasks.core.vectors.choice import Choice
from tasks.core.vectors.reindex import Rebuilt, rebuild
from tasks.core.vectors.tune import Candidate
from tasks.steps import step
from tasks.vector_artifacts import rebuilt_artifact, tuned_artifact


@step("re-index advice", retries=1)
def advise_reindex(environment: Environment) -> tuple[Advice, ...]:
    """One entry for each vector index: is a re-index called for, and by which measured figure?"""
    advice = advise(load_settings(environment))
    advice_artifact(environment, advice)
    say(f"{sum(bool(each.reasons) for each in advice)} of {len(advice)} indexes call for a re-index")
    return advice


@step("tune", retries=1)
def tune_index(environment: Environment, index: str) -> tuple[tuple[Candidate, ...], Candidate | None]:
    """Parameters measured on a sample of the index's own table, and the best of them."""
    settings = load_settings(environment)
    candidates = tune.tune(settings, index)
    best = tune.best(candidates, settings.reindex)
    tuned_artifact(environment, index, candidates, best)
    return candidates, best


@step("build index")
def rebuild_index(environment: Environment, choice: Choice) -> Rebuilt:
    """Build beside the old one, gate, swap, drop the old one. Never retried by itself: it may have lasted for hours."""
    rebuilt = rebuild(current(), choice.index, choice.m, choice.ef_construction)
    rebuilt_artifact(environment, rebuilt)
    return rebuilt
