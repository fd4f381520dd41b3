"""Axes and marks of small charts, as SVG text. Pure; knows nothing of requests.

Colours are classes, which the page's style gives for light and dark.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 10.0, 42.0
"""Pixels around the plotted area, where labels stand."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Values in [low, high]; a logarithmic one has low > 0."""

    label: str
    low: float
    high: float
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one."""
        if self.is_log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """A few round values, within the axis."""
        if not self.is_log:
            step = nice((self.high - self.low) / 6)
            first = math.ceil(self.low / step - 1e-9)
            return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        leads = (1, 2, 5) if math.log10(self.high / self.low) < 2.5 else (1,)
        return [lead * 10.0**d for d in decades for lead in leads if self.low <= lead * 10.0**d <= self.high]


def nice(value: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not less."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((lead * power for lead in (1, 2, 5) if lead * power >= value * (1 - 1e-9)), 10 * power)


def axis_from_zero(label: str, values: Iterable[float]) -> Axis:
    """Linear, from 0 to the greatest value."""
    return Axis(label, 0.0, max(values, default=0.0) or 1.0)


def axis_around(label: str, values: Sequence[float]) -> Axis:
    """From the least to the greatest value: logarithmic where they span more than a factor of 20."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if 0 < low * 20 < high:
        return Axis(label, low, high, is_log=True)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return Axis(label, max(0.0, low - margin) if low >= 0 else low - margin, high + margin)


class Chart:
    """One plotted area with its axes; marks are drawn in the order in which they are added."""

    def __init__(self, x: Axis, y: Axis, *, width: float, height: float, has_y_ticks: bool = True) -> None:
        """Sizes are in pixels of the whole chart, labels included."""
        self.x, self.y, self.width, self.height = x, y, width, height
        self._marks: list[str] = []
        self._axes(has_y_ticks)

    def left(self, value: float) -> float:
        return LEFT + self.x.share(value) * (self.width - LEFT - RIGHT)

    def top(self, value: float) -> float:
        return self.height - BOTTOM - self.y.share(value) * (self.height - TOP - BOTTOM)

    def path(self, data: str, kind: str, **style: object) -> None:
        extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
        self._marks.append(f'<path class="{kind}" d="{data}"{extra}/>')

    def line(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """A polyline through values."""
        self.path("M" + "L".join(f"{self.left(x):.1f} {self.top(y):.1f}" for x, y in points), kind)

    def upright(self, x: float, kind: str) -> None:
        """A vertical line over the whole height."""
        self.path(f"M{self.left(x):.1f} {TOP:.1f}V{self.height - BOTTOM:.1f}", kind)

    def bar(self, begin: float, end: float, y: float, thickness: float, kind: str, tip: str = "") -> None:
        """A horizontal bar of at least half a pixel; `thickness` in pixels, around y."""
        x, width = self.left(begin), max(0.5, self.left(end) - self.left(begin))
        size = f'x="{x:.1f}" y="{self.top(y) - thickness / 2:.1f}" width="{width:.1f}" height="{thickness:.1f}"'
        title = f"<title>{escape(tip)}</title>" if tip else ""
        self._marks.append(f'<rect class="{kind}" {size}>{title}</rect>')

    def text(self, left_px: float, top_px: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self._marks.append(text(left_px, top_px, words, kind, anchor))

    def svg(self, name: str) -> str:
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(name)}">'
            f"{''.join(self._marks)}</svg>"
        )

    def _axes(self, has_y_ticks: bool) -> None:
        base, right = self.height - BOTTOM, self.width - RIGHT
        for tick in self.x.ticks():
            at = self.left(tick)
            self.path(f"M{at:.1f} {TOP}V{base}", "grid")
            self.text(at, base + 15, f"{tick:g}", "tick", "middle")
        for tick in self.y.ticks() if has_y_ticks else ():
            at = self.top(tick)
            self.path(f"M{LEFT} {at:.1f}H{right}", "grid")
            self.text(LEFT - 6, at + 4, f"{tick:g}", "tick", "end")
        self.path(f"M{LEFT} {TOP}V{base}H{right}", "axis")
        self.text((LEFT + right) / 2, self.height - 6, self.x.label, "label", "middle")
        middle = (TOP + base) / 2
        self._marks.append(
            f'<text class="label" text-anchor="middle" transform="translate(14 {middle:.1f}) rotate(-90)">'
            f"{escape(self.y.label)}</text>"
        )


def text(left_px: float, top_px: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{left_px:.1f}" y="{top_px:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
