"""What an approximate search is worth: the share of the really nearest rows that it finds, and how long it takes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

K = 10  # recall@10: a search of the application asks for ten


@dataclass(frozen=True)
class Recall:
    """Over `probes` probes, each a share of 0 to 1: the mean and the worst one."""

    mean: float
    minimum: float
    probes: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} (worst {self.minimum:.2f}, {self.probes} probes)"


@dataclass(frozen=True)
class Figures:
    """An index as measured. `how` says in which way it was reached; latencies in ms; `filtered` is with a language.
    `by_default` is False where the planner, left to itself, would read the whole table instead.
    """

    index: str
    how: str
    recall: Recall
    filtered: Recall | None
    p50_ms: float
    p95_ms: float
    by_default: bool = True


def recall_of(exact: Sequence[float], found: Sequence[float]) -> float:
    """Share of the k nearest that were found, 0 to 1, by their distances in rising order; k is how many `exact` has.

    By distance and not by row: of two rows at the same distance either is a right answer. 1 where nothing was to be
    found.
    """
    if not exact:
        return 1.0
    farthest = exact[-1] + 1e-7 * max(1.0, abs(exact[-1]))  # an index computes in single precision
    return sum(distance <= farthest for distance in found[: len(exact)]) / len(exact)


def summary(shares: Sequence[float]) -> Recall | None:
    """None for no probes."""
    return Recall(statistics.fmean(shares), min(shares), len(shares)) if shares else None


def percentiles(milliseconds: Sequence[float]) -> tuple[float, float]:
    """P50 and P95."""
    if len(milliseconds) == 1:
        return milliseconds[0], milliseconds[0]
    cut = statistics.quantiles(milliseconds, n=20, method="inclusive")
    return cut[9], cut[18]
