"""What was measured, beside its limit and its target; the table. Standard library only."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

DRY = "dry run: no figure means anything"


@dataclass(frozen=True, slots=True)
class Row:
    """One measure."""

    measure: str
    value: float | str
    """A word where there is no number: "failed", "not built", "skipped: ..." """
    unit: str = ""
    limit: float | None = None
    """What the card allows, or what it is compared with, in the same unit; bounds from above, but for times"""
    share: float | None = None
    """Of the limit that was reached, 1 for all of it"""
    least_share: float | None = None
    most_share: float | None = None
    least_value: float | None = None
    note: str = ""
    is_failure: bool = False
    """A wrong result, or something that broke"""

    @property
    def target(self) -> str:
        if self.least_share is not None:
            return f">= {self.least_share:.0%}"
        if self.most_share is not None:
            return f"<= {self.most_share:.0%}"
        return "" if self.least_value is None else f">= {self.least_value:,.0f} {self.unit}"

    @property
    def met(self) -> bool | None:
        """None where there is no target, or nothing to hold against it."""
        if self.least_share is not None and self.share is not None:
            return self.share >= self.least_share
        if self.most_share is not None and self.share is not None:
            return self.share <= self.most_share
        if self.least_value is not None and not isinstance(self.value, str):
            return self.value >= self.least_value
        return None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "target": self.target, "met": self.met}


def from_json(fields: dict[str, Any]) -> Row:
    return Row(**{name: value for name, value in fields.items() if name not in ("target", "met")})


def table(rows: Iterable[Row], *, is_dry: bool) -> str:
    """For a terminal; the columns of figures are aligned right."""
    cells = [("measure", "value", "unit", "limit", "share", "target", "", "")]
    for row in rows:
        verdict = "FAILED" if row.is_failure else ("" if is_dry or row.met is None else "met" if row.met else "missed")
        share = "" if row.share is None else f"{row.share:.1%}"
        limit = "" if row.limit is None else _number(row.limit)
        target = "" if is_dry else row.target
        cells.append((row.measure, _number(row.value), row.unit, limit, share, target, verdict, row.note))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    right = (1, 3, 4)
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([*((DRY,) if is_dry else ()), *lines, *((DRY,) if is_dry else ())])


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if value and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
