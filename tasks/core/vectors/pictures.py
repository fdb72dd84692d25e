"""Two pictures, as PNG: the curve of a tuning, and an index before and after its re-index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.core.drawing import BOTTOM, GRID, INK, LEFT, NEW, OLD, RIGHT, TOP, Axis, available, axis, font, png
from tasks.core.vectors.recall import Figures
from tasks.core.vectors.tune import Candidate

if TYPE_CHECKING:
    from PIL import ImageDraw


def curve(candidates: Sequence[Candidate]) -> bytes | None:
    """Recall over P95, a point a candidate with its m/ef_construction; None without Pillow or candidates."""
    if not available() or not candidates:
        return None
    times, recalls = [one.p95_ms for one in candidates], [one.recall for one in candidates]
    across = axis(times, LEFT, RIGHT, least=0.0)
    upward = axis(recalls, BOTTOM, TOP, most=1.0)

    def draw(pen: ImageDraw.ImageDraw) -> None:
        _frame(pen, across, upward, "P95 of a search, ms", "recall@10")
        points = sorted((across.at(one.p95_ms), upward.at(one.recall), one) for one in candidates)
        pen.line([(x, y) for x, y, _ in points], fill=GRID, width=2)
        for x, y, one in points:
            pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=NEW)
            pen.text((x, y + 8), f"{one.m}/{one.ef_construction}", fill=INK, font=font(13), anchor="ma")

    return png(f"m/ef_construction on {candidates[0].rows:,} rows", draw)


def before_and_after(before: Figures | None, after: Figures | None) -> bytes | None:
    """Recall (mean, worst) and latencies (P50, P95) beside each other; None without Pillow or without both."""
    if not available() or before is None or after is None:
        return None
    shares = [("recall, mean", before.recall.mean, after.recall.mean)]
    shares.append(("recall, worst", before.recall.minimum, after.recall.minimum))
    times = [("P50, ms", before.p50_ms, after.p50_ms), ("P95, ms", before.p95_ms, after.p95_ms)]

    def draw(pen: ImageDraw.ImageDraw) -> None:
        _bars(pen, shares, Axis(0.0, 1.0, BOTTOM, TOP + 20), LEFT, "{:.3f}")
        longest = max(value for _, *values in times for value in values)
        _bars(pen, times, Axis(0.0, 1.1 * longest or 1.0, BOTTOM, TOP + 20), (LEFT + RIGHT) // 2 + 20, "{:.1f}")
        for number, (word, colour) in enumerate((("before", OLD), ("after", NEW))):
            pen.rectangle((LEFT + 90 * number, 410, LEFT + 12 + 90 * number, 422), fill=colour)
            pen.text((LEFT + 18 + 90 * number, 408), word, fill=INK, font=font(13))

    return png(f"{before.index}, before and after", draw)


def _bars(
    pen: ImageDraw.ImageDraw, groups: Sequence[tuple[str, float, float]], axis: Axis, left: int, form: str
) -> None:
    pen.line((left - 10, BOTTOM, left + 290, BOTTOM), fill=INK)
    for number, (word, before, after) in enumerate(groups):
        start = left + 20 + number * 140
        for place, (value, colour) in enumerate(((before, OLD), (after, NEW))):
            x, y = start + place * 50, axis.at(value)
            pen.rectangle((x, y, x + 40, BOTTOM), fill=colour)
            pen.text((x + 20, y - 4), form.format(value), fill=INK, font=font(13), anchor="mb")
        pen.text((start + 45, BOTTOM + 8), word, fill=INK, font=font(13), anchor="ma")


def _frame(pen: ImageDraw.ImageDraw, across: Axis, upward: Axis, below: str, beside: str) -> None:
    for value in upward.ticks():
        y = upward.at(value)
        pen.line((LEFT, y, RIGHT, y), fill=GRID)
        pen.text((LEFT - 8, y), f"{value:.3f}", fill=INK, font=font(13), anchor="rm")
    for value in across.ticks():
        x = across.at(value)
        pen.line((x, BOTTOM, x, BOTTOM + 5), fill=INK)
        pen.text((x, BOTTOM + 8), f"{value:.2f}", fill=INK, font=font(13), anchor="ma")
    pen.line((LEFT, TOP, LEFT, BOTTOM, RIGHT, BOTTOM), fill=INK)
    pen.text(((LEFT + RIGHT) // 2, BOTTOM + 32), below, fill=INK, font=font(14), anchor="ma")
    pen.text((LEFT, TOP - 8), beside, fill=INK, font=font(14), anchor="lb")
