"""Draws the loss curve of a training run as a small SVG.

It knows points and axes. It knows nothing of models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 32, 44
_TICKS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class LossPoint:
    """The mean loss of the steps that end at one moment of the run."""

    minutes: float
    loss: float


def write_chart(path: Path, points: Sequence[LossPoint], title: str) -> None:
    """Plot loss (logarithmic) over minutes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_svg(points, title), "utf-8")


def _svg(points: Sequence[LossPoint], title: str) -> str:
    last = max(point.minutes for point in points)
    low, high = min(point.loss for point in points) * 0.9, max(point.loss for point in points) * 1.1

    def x(minutes: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * minutes / last

    def y(loss: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * math.log(high / loss) / math.log(high / low)

    grid = [
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
        f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in _TICKS
        if low <= tick <= high
    ]
    step = max(1, round(last / 8))
    grid += [
        f'<text x="{x(minute):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{minute}</text>'
        for minute in range(0, int(last) + 1, step)
    ]
    line = " ".join(f"{x(point.minutes):.1f},{y(point.loss):.1f}" for point in points)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'font-family="sans-serif" font-size="12" fill="#333">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
            f'<text x="{_LEFT}" y="20" font-size="14">{title}</text>',
            *grid,
            f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">minutes</text>',
            f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="1.5"/>',
            "</svg>\n",
        )
    )
