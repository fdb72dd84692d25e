"""The picture of an environment's drills: how long its backups took to restore, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.core.backup.manifest import Backup
from tasks.core.drawing import BOTTOM, GRID, INK, LEFT, NEW, OLD, RIGHT, TOP, Axis, available, font, png
from tasks.core.progress import size

if TYPE_CHECKING:
    from PIL import ImageDraw

MOST = 40  # drills; more would be a thicket


def drill_history(backups: Sequence[Backup]) -> bytes | None:
    """Restore time (a line, seconds) over size (columns), oldest first; None without Pillow or a proved backup."""
    proved = [(one, one.proof) for one in backups if one.proof is not None and one.proved][-MOST:]
    if not available() or not proved:
        return None
    times = [proof.restore_seconds for _, proof in proved]
    sizes = [float(one.stored_bytes) for one, _ in proved]
    upward = Axis(0.0, 1.1 * max(times) or 1.0, BOTTOM, TOP + 20)
    columns = Axis(0.0, 2.2 * max(sizes) or 1.0, BOTTOM, TOP + 20)
    room = (RIGHT - LEFT) / len(proved)
    middles = [LEFT + room * (place + 0.5) for place in range(len(proved))]

    def draw(pen: ImageDraw.ImageDraw) -> None:
        _scales(pen, upward, columns)
        for x, stored in zip(middles, sizes, strict=True):
            width = min(24.0, room * 0.6) / 2
            pen.rectangle((x - width, columns.at(stored), x + width, BOTTOM), fill=GRID)
        points = [(x, upward.at(seconds)) for x, seconds in zip(middles, times, strict=True)]
        pen.line(points, fill=NEW, width=2)
        for x, y in points:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=NEW)
        for place in sorted({0, len(proved) // 2, len(proved) - 1}):
            said = f"{proved[place][0].created:%Y-%m-%d}"
            pen.text((middles[place], BOTTOM + 8), said, fill=INK, font=font(13), anchor="ma")

    return png(f"{len(proved)} restore drill{'' if len(proved) == 1 else 's'}", draw)


def _scales(pen: ImageDraw.ImageDraw, upward: Axis, columns: Axis) -> None:
    for value, stored in zip(upward.ticks(), columns.ticks(), strict=True):
        y = upward.at(value)
        pen.line((LEFT, y, RIGHT, y), fill=GRID)
        pen.text((LEFT - 8, y), f"{value:.1f}", fill=NEW, font=font(13), anchor="rm")
        pen.text((RIGHT, y - 1), size(stored), fill=OLD, font=font(11), anchor="rb")
    pen.text((LEFT, TOP), "restore, s", fill=NEW, font=font(14), anchor="lb")
    pen.text((RIGHT, TOP), "size in the store", fill=OLD, font=font(14), anchor="rb")
