"""How long a deploy will take on the database itself, from what its rehearsal took on a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

MARGIN = 3.0  # a copy on an idle scratch server is faster than a database at work
ENOUGH = 3  # deploys of this environment, before its own figures count
RECENT = 10
AFTERWARDS = timedelta(seconds=30)  # lock, gates, verification: measured at 3 to 10 s on the test databases
_SHORTEST = 1.0  # below a second a ratio measures the machine's mood


@dataclass(frozen=True)
class Prediction:
    """`seconds` from the first statement to the end of verify and watch. `because` says what it rests on."""

    seconds: float
    because: str

    @property
    def duration(self) -> timedelta:
        return timedelta(seconds=self.seconds)


def ratio(actual: float, rehearsed: float) -> float:
    """How many times as long it took on the database as on the copy; both in seconds."""
    return max(actual, _SHORTEST) / max(rehearsed, _SHORTEST)


def factor(ratios: Sequence[float]) -> float:
    """What to multiply a rehearsal with: the worst of this environment's last ten, 3 until there are three."""
    return max(ratios[-RECENT:]) if len(ratios) >= ENOUGH else MARGIN


def predict(rehearsed: float | None, ratios: Sequence[float], watch: timedelta, again: float = 0.0) -> Prediction:
    """From the `rehearsed` seconds of all pending migrations (None: they were not rehearsed, which counts as nothing
    but is said), past `ratios` (oldest first), the environment's `watch`, and the seconds of what is to be done
    `again` before (backup and proof).
    """
    times = factor(ratios)
    seconds = max(rehearsed or 0.0, _SHORTEST) * times + watch.total_seconds() + AFTERWARDS.total_seconds() + again
    figure = "not rehearsed" if rehearsed is None else f"rehearsed {rehearsed:.1f} s"
    whence = f"of {min(len(ratios), RECENT)} deploys here" if len(ratios) >= ENOUGH else "until three deploys are known"
    rest = f"{AFTERWARDS.total_seconds():.0f} s to verify, {watch.total_seconds():.0f} s watch"
    return Prediction(round(seconds, 1), f"{figure} x {times:.1f} ({whence}), {rest}")
