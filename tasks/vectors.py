"""The task of the reindex flow."""

from __future__ import annotations

from tasks.artifacts import advice_artifact
from tasks.core.progress import say
from tasks.core.settings import Environment, load_settings
from tasks.core.vectors.advice import Advice, advise
from tasks.steps import step


@step("re-index advice", retries=1)
def advise_reindex(environment: Environment) -> tuple[Advice, ...]:
    """One entry for each HNSW index: is a re-index called for, and by which measured figure?"""
    advice = advise(load_settings(environment))
    advice_artifact(environment, advice)
    say(f"{sum(bool(each.reasons) for each in advice)} of {len(advice)} indexes call for a re-index")
    return advice
