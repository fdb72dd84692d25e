"""Two pictures, as PNG: the curve of a tuning, and an index before and after its re-index.

Drawn with Pillow, which is an optional extra of the project ("plots"): without it there is no picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tasks.core.vectors.recall import Figures
from tasks.core.vectors.tune import Candidate

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

HINT = "pip install 'kg-operations[plots]' draws it"

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 730, 50, 370
_INK, _GRID, _OLD, _NEW = "#1f2328", "#d0d7de", "#8c959f", "#0969da"


@dataclass(frozen=True)
class _Axis:
    """Maps values of `least` to `most` onto pixels."""

    least: float
    most: float
    first: int
    last: int

    def at(self, value: float) -> float:
        share = (value - self.least) / (self.most - self.least)
        return self.first + share * (self.last - self.first)

    def ticks(self, count: int = 5) -> list[float]:
        return [self.least + (self.most - self.least) * step / count for step in range(count + 1)]


def available() -> bool:
    return find_spec("PIL") is not None


def curve(candidates: Sequence[Candidate]) -> bytes | None:
    """Recall over P95, a point a candidate with its m/ef_construction; None without Pillow or candidates."""
    if not available() or not candidates:
        return None
    times, recalls = [one.p95_ms for one in candidates], [one.recall for one in candidates]
    across = _axis(times, _LEFT, _RIGHT, least=0.0)
    upward = _axis(recalls, _BOTTOM, _TOP, most=1.0)

    def draw(pen: ImageDraw.ImageDraw) -> None:
        _frame(pen, across, upward, "P95 of a search, ms", "recall@10")
        points = sorted((across.at(one.p95_ms), upward.at(one.recall), one) for one in candidates)
        pen.line([(x, y) for x, y, _ in points], fill=_GRID, width=2)
        for x, y, one in points:
            pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=_NEW)
            pen.text((x, y + 8), f"{one.m}/{one.ef_construction}", fill=_INK, font=_font(13), anchor="ma")

    return _png(f"m/ef_construction on {candidates[0].rows:,} rows", draw)


def before_and_after(before: Figures | None, after: Figures | None) -> bytes | None:
    """Recall (mean, worst) and latencies (P50, P95) beside each other; None without Pillow or without both."""
    if not available() or before is None or after is None:
        return None
    shares = [("recall, mean", before.recall.mean, after.recall.mean)]
    shares.append(("recall, worst", before.recall.minimum, after.recall.minimum))
    times = [("P50, ms", before.p50_ms, after.p50_ms), ("P95, ms", before.p95_ms, after.p95_ms)]

    def draw(pen: ImageDraw.ImageDraw) -> None:
        _bars(pen, shares, _Axis(0.0, 1.0, _BOTTOM, _TOP + 20), _LEFT, "{:.3f}")
        longest = max(value for _, *values in times for value in values)
        _bars(pen, times, _Axis(0.0, 1.1 * longest or 1.0, _BOTTOM, _TOP + 20), (_LEFT + _RIGHT) // 2 + 20, "{:.1f}")
        for number, (word, colour) in enumerate((("before", _OLD), ("after", _NEW))):
            pen.rectangle((_LEFT + 90 * number, 410, _LEFT + 12 + 90 * number, 422), fill=colour)
            pen.text((_LEFT + 18 + 90 * number, 408), word, fill=_INK, font=_font(13))

    return _png(f"{before.index}, before and after", draw)


def _bars(
    pen: ImageDraw.ImageDraw, groups: Sequence[tuple[str, float, float]], axis: _Axis, left: int, form: str
) -> None:
    pen.line((left - 10, _BOTTOM, left + 290, _BOTTOM), fill=_INK)
    for number, (word, before, after) in enumerate(groups):
        start = left + 20 + number * 140
        for place, (value, colour) in enumerate(((before, _OLD), (after, _NEW))):
            x, y = start + place * 50, axis.at(value)
            pen.rectangle((x, y, x + 40, _BOTTOM), fill=colour)
            pen.text((x + 20, y - 4), form.format(value), fill=_INK, font=_font(13), anchor="mb")
        pen.text((start + 45, _BOTTOM + 8), word, fill=_INK, font=_font(13), anchor="ma")


def _frame(pen: ImageDraw.ImageDraw, across: _Axis, upward: _Axis, below: str, beside: str) -> None:
    for value in upward.ticks():
        y = upward.at(value)
        pen.line((_LEFT, y, _RIGHT, y), fill=_GRID)
        pen.text((_LEFT - 8, y), f"{value:.3f}", fill=_INK, font=_font(13), anchor="rm")
    for value in across.ticks():
        x = across.at(value)
        pen.line((x, _BOTTOM, x, _BOTTOM + 5), fill=_INK)
        pen.text((x, _BOTTOM + 8), f"{value:.2f}", fill=_INK, font=_font(13), anchor="ma")
    pen.line((_LEFT, _TOP, _LEFT, _BOTTOM, _RIGHT, _BOTTOM), fill=_INK)
    pen.text(((_LEFT + _RIGHT) // 2, _BOTTOM + 32), below, fill=_INK, font=_font(14), anchor="ma")
    pen.text((_LEFT, _TOP - 8), beside, fill=_INK, font=_font(14), anchor="lb")


def _axis(
    values: Sequence[float], first: int, last: int, *, least: float | None = None, most: float | None = None
) -> _Axis:
    """Round the values with a little air; never of length zero."""
    low = min(values) if least is None else least
    high = max(values) if most is None else most
    air = 0.1 * (high - low) or 0.01
    return _Axis(low if least is not None else low - air, high if most is not None else high + air, first, last)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _png(title: str, draw: Callable[[ImageDraw.ImageDraw], None]) -> bytes:
    from PIL import Image, ImageDraw

    picture: Image.Image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((_WIDTH // 2, 12), title, fill=_INK, font=_font(16), anchor="ma")
    draw(pen)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
