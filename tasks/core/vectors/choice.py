"""Which indexes a re-index builds, and with which parameters. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.core.errors import UsageError
from tasks.core.vectors.advice import Advice
from tasks.core.vectors.guide import check_parameters


@dataclass(frozen=True)
class Choice:
    """An index to be built anew."""

    index: str
    m: int
    ef_construction: int


def choose(
    advice: Sequence[Advice],
    *,
    index: str = "",
    m: int = 0,
    ef_construction: int = 0,
    tuned: Mapping[str, tuple[int, int]] | None = None,
) -> tuple[Choice, ...]:
    """The index named; else, with parameters given, each of the revision's; else those that advice calls for.

    Parameters: those given (0 is not given), else what tuning found best, else what advice suggests. Raises UsageError
    for a name that there is not, and for parameters that pgvector would refuse.
    """
    if index:
        chosen = [one for one in advice if one.name == index]
        if not chosen:
            names = ", ".join(one.name for one in advice) or "none"
            raise UsageError(f"there is no vector index {index!r}", hint=f"the vector indexes are: {names}")
    elif m or ef_construction or tuned:
        chosen = [one for one in advice if one.of_revision]
    else:
        chosen = [one for one in advice if one.reasons]
    return tuple(_with_parameters(one, m, ef_construction, (tuned or {}).get(one.name)) for one in chosen)


def _with_parameters(one: Advice, m: int, ef_construction: int, tuned: tuple[int, int] | None) -> Choice:
    by_default = tuned or one.suggested
    larger = m or by_default[0]
    choice = Choice(one.name, larger, ef_construction or max(by_default[1], 2 * larger))
    check_parameters(choice.m, choice.ef_construction)
    return choice
