"""Seconds over rows as SVG: both axes logarithmic, a line for each way; no library is needed for that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_WIDTH, _HEIGHT, _EDGE, _LEGEND = 460, 340, 50, 230
_COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#17becf")


def plot(results: Sequence[dict[str, Any]]) -> str:
    """Two panels: backup and restore. `results` as tests.benchmarks.vectors has them, one a size."""
    panels = [_panel(results, kind, number) for number, kind in enumerate(("backup", "restore"))]
    size = f'width="{_WIDTH + _LEGEND}" height="{2 * _HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *panels, "</svg>"]) + "\n"


def _panel(results: Sequence[dict[str, Any]], kind: str, number: int) -> str:
    lines = {
        way: [(each["rows"], each[kind][way]["seconds"]) for each in results if way in each[kind]]
        for way in results[-1][kind]
    }
    spots = [spot for line in lines.values() for spot in line]
    low = [math.log10(min(spot[axis] for spot in spots)) for axis in (0, 1)]
    high = [math.log10(max(spot[axis] for spot in spots)) + 0.01 for axis in (0, 1)]

    def place(spot: tuple[float, float]) -> tuple[float, float]:
        share = [(math.log10(spot[axis]) - low[axis]) / (high[axis] - low[axis] or 1) for axis in (0, 1)]
        inner = (_WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE)
        return _EDGE + share[0] * inner[0], number * _HEIGHT + _HEIGHT - _EDGE - share[1] * inner[1]

    drawn = [f'<text x="{_EDGE}" y="{number * _HEIGHT + 25}" font-size="14">{kind}: seconds over rows</text>']
    for row in sorted({spot[0] for spot in spots}):
        x, _ = place((row, 10 ** low[1]))
        drawn.append(f'<text x="{x:.0f}" y="{number * _HEIGHT + _HEIGHT - 30}" text-anchor="middle">{row:,}</text>')
    for index, (way, line) in enumerate(lines.items()):
        colour, points = _COLOURS[index % len(_COLOURS)], [place(spot) for spot in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        y = number * _HEIGHT + _EDGE + 18 * index
        label = way.replace("&", "&amp;").replace("<", "&lt;")
        drawn.append(f'<text x="{_WIDTH - 30}" y="{y}" fill="{colour}">{label}: {line[-1][1]:.2f} s</text>')
    return "\n".join(drawn)
