"""The parts that all pictures are drawn with, as PNG.

Drawn with Pillow, which is an optional extra of the project ("plots"): without it there is no picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

HINT = "pip install 'kg-operations[plots]' draws it"

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 80, 730, 50, 370
INK, GRID, OLD, NEW = "#1f2328", "#d0d7de", "#8c959f", "#0969da"


@dataclass(frozen=True)
class Axis:
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


def axis(
    values: Sequence[float], first: int, last: int, *, least: float | None = None, most: float | None = None
) -> Axis:
    """Round the values with a little air; never of length zero."""
    low = min(values) if least is None else least
    high = max(values) if most is None else most
    air = 0.1 * (high - low) or 0.01
    return Axis(low if least is not None else low - air, high if most is not None else high + air, first, last)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def png(title: str, draw: Callable[[ImageDraw.ImageDraw], None]) -> bytes:
    from PIL import Image, ImageDraw

    picture: Image.Image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((WIDTH // 2, 12), title, fill=INK, font=font(16), anchor="ma")
    draw(pen)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
