"""Figures of what the runners here wrote: a point for each median, and from the least to the most around it.

    python -m bench.rivals.plots RESULTS.json... --out docs/plots

Several files of one runner count as one run with more rounds. Knows nothing of servers; the same files give the same
bytes.
"""

import argparse
import json
import statistics
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rivals.results import Results, Sample, cell
from cli.load.svg import BOTTOM, LEFT, TOP, Axis, Chart, axis_from_zero, text
from engine.errors import ConfigError, TandemError

WIDTH, HEIGHT = 460.0, 330.0
"""Pixels of one panel, without title and legend."""
TITLE, LEGEND_ROW, BAR_ROW, APART = 30.0, 17.0, 32.0, 12.0
STYLE = """
svg { font: 12px system-ui, sans-serif; } text { fill: #1c2024; } text.title { font-size: 14px; font-weight: 600; }
text.tick, text.label { fill: #5c656e; } .page { fill: #fff; } .grid { stroke: #e4e7ea; fill: none; }
.axis, .spread { stroke: #5c656e; fill: none; } .line { fill: none; stroke-width: 1.6; }
"""
COLOURS = {
    "memory bandwidth": "#8a939b",
    "tandem f32 unified": "#1f5fa8",
    "tandem f32 1P1D": "#7a5fd0",
    "tandem f32 1P1D split": "#4f9be8",
    "tandem f32 1P1D lent": "#19a7c4",
    "tandem f32 1P1D lent both": "#6fc3d8",
    "tandem int8 unified": "#0b6e4f",
    "tandem int8 1P1D split": "#7cc243",
    "tandem int8 1P1D lent": "#2fae7d",
    "tandem int8 1P1D lent both": "#9bd06b",
    "vllm f32": "#e0701a",
    "vllm f32 chunk 64": "#a8480a",
    "vllm f32 chunk 128": "#f0a04b",
    "vllm f32 chunk 256": "#c99a00",
    "vllm W8A8": "#f2b705",
    "llama.cpp f32": "#b0307a",
    "llama.cpp Q8_0": "#d96bb0",
    "transformers f32": "#7b4a2d",
}
OTHER_COLOURS = ("#596780", "#3c7d5a", "#9c5c9e", "#a23b3b", "#6f7d2b", "#2f7f93")
"""A system that is not above has one of these, by its name alone."""


@dataclass(frozen=True, slots=True)
class MarkedAxis(Axis):
    """Its ticks are the values that were measured."""

    marks: tuple[float, ...] = ()

    def ticks(self) -> list[float]:
        return list(self.marks)


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart, what stands above it, and the systems of the legend under it."""

    title: str
    chart: Chart
    legend: tuple[str, ...] = ()

    @property
    def height(self) -> float:
        return TITLE + self.chart.height + LEGEND_ROW * ((len(self.legend) + 1) // 2)


def colour(system: str) -> str:
    """The same in every figure."""
    return COLOURS.get(system) or OTHER_COLOURS[zlib.crc32(system.encode()) % len(OTHER_COLOURS)]


def throughput(results: Results) -> dict[str, str]:
    """Output tokens by streams, a panel for float32 and one for int8; and what prompts alone take."""
    figure, names = "output tok/s", results.systems("output tok/s")
    parts = (
        ("float32", [name for name in names if _is_float32(name)]),
        ("int8", [name for name in names if not _is_float32(name)]),
    )
    panels = [_by_streams(results, f"{title}: {figure}", chosen) for title, chosen in parts if chosen]
    return _drawn("throughput", panels) | _drawn("prefill", _bars(results, "prefill tok/s", 0))


def interference(results: Results) -> dict[str, str]:
    """Gaps of the running streams, and what the arriving prompts pay for them."""
    figures = {"quiet p50 ms": "circle", "busy p99 ms": "square", "worst gap ms": "triangle"}
    names, panels = results.systems("busy p99 ms"), []
    for case in results.cases("busy p99 ms"):
        found = [value for name in names for figure in figures for value in results.values(name, case, figure)]
        title = f"{case}: ● quiet p50, ■ busy p99, ▲ worst gap"
        chart = _rows_chart(_log_axis("ms between the tokens of the streams", found), len(names))
        for row, name in enumerate(names):
            chart.text(LEFT + 5, chart.top(row + 0.36), name)
            for figure, shape in figures.items():
                if values := results.values(name, case, figure):
                    _point(chart, values, [row + 0.68], shape, colour(name))
        panels.append(Panel(title, chart))
    return _drawn("interference", panels) | _drawn("trade", _trade(results))


def goodput(results: Results) -> dict[str, str]:
    """The highest good rate of each system."""
    return _drawn("goodput", _bars(results, "goodput req/s", 2))


DRAWN_BY: dict[str, Callable[[Results], dict[str, str]]] = {
    "output and prefill throughput": throughput,
    "interference of long prompts with running streams": interference,
    "goodput": goodput,
}
"""By what a runner calls its results."""


def read(paths: Iterable[Path]) -> list[Results]:
    """The files, those of the same kind as one. Raises ConfigError for one that is not of a runner drawn here."""
    found: dict[str, Results] = {}
    for path in paths:
        try:
            told = json.loads(path.read_text())
            what = str(told["what"])
            samples = [_sample(fields) for fields in told["samples"]]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} holds no results: {type(error).__name__}: {error}") from error
        if what not in DRAWN_BY:
            raise ConfigError(f"{path} is about {what!r}, of which there is no figure; there is: {', '.join(DRAWN_BY)}")
        found.setdefault(what, Results(what)).samples.extend(samples)
    return list(found.values())


def draw(paths: Iterable[Path], out: Path) -> list[Path]:
    """Write the figures, and say which. One of which nothing was measured is not made."""
    figures = [item for results in read(paths) for item in DRAWN_BY[results.what](results).items()]
    out.mkdir(parents=True, exist_ok=True)
    for name, svg in figures:
        (out / f"{name}.svg").write_text(svg)
    return [out / f"{name}.svg" for name, _ in figures]


def _sample(fields: dict[str, str | int | float | None]) -> Sample:
    rest = {name: value for name, value in fields.items() if name not in ("system", "case", "round")}
    return Sample(str(fields["system"]), str(fields["case"]), int(fields["round"] or 0), rest)


def _is_float32(system: str) -> bool:
    return " f32" in system or system == "memory bandwidth"


def _by_streams(results: Results, title: str, systems: Sequence[str]) -> Panel:
    figure = "output tok/s"
    streams = {case: float(case.split()[0]) for case in results.cases(figure)}
    counts = tuple(sorted(set(streams.values())))
    found = [value for name in systems for case in streams for value in results.values(name, case, figure)]
    x = MarkedAxis("streams", counts[0] * 0.85, counts[-1] * 1.18, is_log=True, marks=counts)
    chart = Chart(x, axis_from_zero("tok/s", [1.03 * value for value in found]), width=WIDTH, height=HEIGHT)
    for name in systems:
        points = [(streams[case], values) for case in streams if (values := results.values(name, case, figure))]
        points.sort()
        line = "L".join(f"{chart.left(at):.1f} {chart.top(statistics.median(values)):.1f}" for at, values in points)
        chart.path(f"M{line}", "line", stroke=colour(name))
        for at, values in points:
            _point(chart, [at], values, "circle", colour(name))
    return Panel(title, chart, tuple(systems))


def _bars(results: Results, figure: str, digits: int) -> list[Panel]:
    """A panel for each case."""
    panels = []
    for case in results.cases(figure):
        rows = [(name, found) for name in results.systems(figure) if (found := results.values(name, case, figure))]
        chart = _rows_chart(axis_from_zero(figure, [1.03 * value for _, found in rows for value in found]), len(rows))
        for row, (name, values) in enumerate(rows):
            chart.text(LEFT + 5, chart.top(row + 0.36), f"{name}: {_words(values, digits)}")
            left, right = chart.left(0), chart.left(statistics.median(values))
            top, bottom = chart.top(row + 0.5), chart.top(row + 0.86)
            data = f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z"
            chart.path(data, "median", fill=colour(name))
            _spread(chart, values, [row + 0.68])
        panels.append(Panel(f"{case}: {figure}", chart))
    return panels


def _trade(results: Results) -> list[Panel]:
    """Time to first token of the long prompts beside the gaps of the streams: both are better when less."""
    panels = []
    for case in results.cases("long TTFT ms"):
        pairs = {
            name: (waits, gaps)
            for name in results.systems("long TTFT ms")
            if (waits := results.values(name, case, "long TTFT ms"))
            and (gaps := results.values(name, case, "busy p99 ms"))
        }
        if not pairs:
            continue
        x = _log_axis("TTFT of the long prompts, ms", [value for waits, _ in pairs.values() for value in waits])
        y = _log_axis("busy p99 of the streams' gaps, ms", [value for _, gaps in pairs.values() for value in gaps])
        chart = Chart(x, y, width=WIDTH, height=HEIGHT)
        for name, (waits, gaps) in pairs.items():
            _point(chart, waits, gaps, "circle", colour(name))
        panels.append(Panel(f"{case} and long prompts: who waits (less is better)", chart, tuple(pairs)))
    return panels


def _words(values: Sequence[float], digits: int) -> str:
    return cell(values, digits) if len(values) > 1 else f"{values[0]:.{digits}f}"


def _log_axis(label: str, values: Sequence[float]) -> Axis:
    positive = [value for value in values if value > 0] or [1.0]
    return Axis(label, min(positive) / 1.25, max(positive) * 1.25, is_log=True)


def _rows_chart(x: Axis, rows: int) -> Chart:
    """Room for a name and a mark under it in each row, the first at the top."""
    return Chart(x, Axis("", rows, 0), width=WIDTH, height=rows * BAR_ROW + TOP + BOTTOM, has_y_ticks=False)


def _point(chart: Chart, xs: Sequence[float], ys: Sequence[float], shape: str, fill: str) -> None:
    """At the medians, and lines from the least to the most."""
    _spread(chart, xs, ys)
    x, y = chart.left(statistics.median(xs)), chart.top(statistics.median(ys))
    outline = {
        "circle": f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
        "square": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8Z",
        "triangle": f"M{x:.1f} {y - 5:.1f}l5 9h-10Z",
    }
    chart.path(outline[shape], "median", fill=fill)


def _spread(chart: Chart, xs: Sequence[float], ys: Sequence[float]) -> None:
    x, y = chart.left(statistics.median(xs)), chart.top(statistics.median(ys))
    if min(xs) < max(xs):
        left, right = chart.left(min(xs)), chart.left(max(xs))
        ends = "".join(f"M{end:.1f} {y - 3:.1f}v6" for end in (left, right))
        chart.path(f"M{left:.1f} {y:.1f}H{right:.1f}{ends}", "spread")
    if min(ys) < max(ys):
        low, high = chart.top(min(ys)), chart.top(max(ys))
        ends = "".join(f"M{x - 3:.1f} {end:.1f}h6" for end in (low, high))
        chart.path(f"M{x:.1f} {low:.1f}V{high:.1f}{ends}", "spread")


def _drawn(name: str, panels: Sequence[Panel]) -> dict[str, str]:
    """The panels from left to right as one file; nothing where there are none."""
    if not panels:
        return {}
    width, height = (WIDTH + APART) * len(panels), max(panel.height for panel in panels) + 8
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>']
    parts.append(f'<rect class="page" width="{width:g}" height="{height:g}"/>')
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * (WIDTH + APART):g} 0)">{_panel(panel)}</g>')
    return {name: "\n".join([*parts, "</svg>\n"])}


def _panel(panel: Panel) -> str:
    chart = panel.chart
    place = f'<svg y="{TITLE:g}" width="{chart.width:g}" height="{chart.height:g}" overflow="visible"'
    parts = [text(14, 20, panel.title, "title"), chart.svg(panel.title).replace("<svg", place, 1)]
    for number, name in enumerate(panel.legend):
        left, top = 20 + number % 2 * WIDTH / 2, TITLE + chart.height + number // 2 * LEGEND_ROW + 2
        parts.append(f'<rect x="{left:g}" y="{top:g}" width="10" height="10" fill="{colour(name)}"/>')
        parts.append(text(left + 16, top + 10, name))
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--out", type=Path, default=Path("docs/plots"), metavar="FOLDER")
    args = parser.parse_args()
    try:
        print(*draw(args.results, args.out), sep="\n")
    except TandemError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
