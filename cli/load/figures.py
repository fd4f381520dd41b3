"""What happened, drawn: distributions, requests over time, gaps between tokens over time. Pure.

However long a run was, a figure stays small: a curve has at most CURVE_POINTS points and the timeline TIMELINE_ROWS
requests, evenly chosen; of gaps that fall on one pixel the longest is drawn, which hides the others anyway.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from cli.load.interference import Gaps, InterferenceResult
from cli.load.measure import Record, series
from cli.load.overview import number
from cli.load.svg import BOTTOM, LEFT, RIGHT, TOP, Axis, Chart, axis_around, axis_from_zero

CURVE_POINTS = 400
TIMELINE_ROWS = 250
WIDE, HALF = 1000.0, 480.0
"""Pixels: one figure in a row, and two."""
TIME = "seconds since the start"
METRICS = {
    "ttft": "TTFT, time to first token",
    "tpot": "TPOT, time per output token of a request",
    "itl": "ITL, gaps between chunks of all requests",
    "e2el": "E2EL, end-to-end latency",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """Values in milliseconds, and the class of their colour."""

    name: str
    kind: str
    values_ms: Sequence[float]


def distributions(records: Sequence[Record]) -> str:
    """CDFs of the requests that succeeded."""
    values = series([record for record in records if record.error is None])
    return _pairs(cdf(name, [Curve("", "one", values[metric])]) for metric, name in METRICS.items())


def phase_distributions(result: InterferenceResult) -> str:
    """CDFs of the streams' gaps by phase, and of the long prompts' TTFT."""
    phases = result.phases
    quiet = Gaps(result.streams, phases.quiet_from, phases.busy_from).gaps_ms
    busy = Gaps(result.streams, phases.busy_from, phases.busy_until).gaps_ms
    ttft = [record.ttft_ms for record in result.longs if record.error is None]
    return _pairs(
        [
            cdf("ITL of the streams", [Curve("quiet", "one", quiet), Curve("busy", "two", busy)]),
            cdf("TTFT of the long prompts", [Curve("", "two", ttft)]),
        ]
    )


def cdf(name: str, curves: Sequence[Curve]) -> str:
    """Share of values that are not greater; dashed lines at each curve's median and 99th percentile."""
    x = axis_around("milliseconds", [value for curve in curves for value in curve.values_ms])
    chart = Chart(x, Axis("% of values", 0.0, 100.0), width=HALF, height=250.0)
    told = []
    for curve in curves:
        words = "no values"
        if curve.values_ms:
            median, p99 = np.percentile(curve.values_ms, (50, 99)).tolist()
            for mark in (median, p99):
                chart.upright(mark, f"{curve.kind} dash")
            _steps(chart, curve)
            most, count = max(curve.values_ms), len(curve.values_ms)
            words = f"median {number(median)}, p99 {number(p99)}, max {number(most)} ms of {count:,} values"
        told.append(f"{_key(curve.kind, curve.name)}: {words}" if curve.name else words)
    return f"<figure><figcaption>{escape(name)}<br>{'<br>'.join(told)}</figcaption>{chart.svg(name)}</figure>"


def _steps(chart: Chart, curve: Curve) -> None:
    values = sorted(curve.values_ms)
    data = f"M{chart.left(values[0]):.1f} {chart.top(0.0):.1f}"
    for index in thinned(len(values), CURVE_POINTS):
        share = 100 * (index + 1) / len(values)
        data += f"H{chart.left(values[index]):.1f}V{chart.top(share):.1f}"
    chart.path(data, curve.kind)


def thinned(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spaced, with the first and the last."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most)).tolist()}) if count else []


def requests_over_time(records: Sequence[Record]) -> str:
    """A bar per request, from when it was due to its last token."""
    shown = [records[index] for index in thinned(len(records), TIMELINE_ROWS)]
    room = min(600.0, max(90.0, 14.0 * len(shown)))
    x = axis_from_zero(TIME, [record.end_s for record in records])
    y = Axis("requests, the first at the top", len(shown) - 0.5, -0.5)
    chart = Chart(x, y, width=WIDE, height=room + TOP + BOTTOM, has_y_ticks=False)
    thickness = min(12.0, 0.8 * room / max(1, len(shown)))
    for row, record in enumerate(shown):
        tip = _tip(record)
        for begin, end, kind in _parts(record):
            chart.bar(begin, end, row, thickness, kind, tip)
    some = (
        f" Shown are {len(shown):,} of {len(records):,} requests, evenly chosen." if len(shown) < len(records) else ""
    )
    keys = (
        _key("wait", "due, not sent"),
        _key("two", "to the first token (TTFT)"),
        _key("one", "to the last"),
        _key("bad", "failed"),
    )
    caption = f"<figcaption>{''.join(keys)}.{some}</figcaption>"
    return f"<figure>{caption}{chart.svg('Requests over time')}</figure>"


def _parts(record: Record) -> list[tuple[float, float, str]]:
    """Begin and end in seconds, and the kind."""
    wait = [(record.due_s, record.sent_s, "wait")] if record.sent_s > record.due_s else []
    if record.error is not None:
        return [*wait, (record.sent_s, record.end_s, "bad")]
    first, last = record.reply.chunks_s[0], record.reply.chunks_s[-1]
    return [*wait, (record.sent_s, first, "two"), (first, last, "one")]


def _tip(record: Record) -> str:
    head = f"request {record.index}: {record.input_tokens} tokens in, {record.output_tokens} out, "
    if record.error is not None:
        return head + record.error
    tpot = "-" if record.tpot_ms is None else f"{record.tpot_ms:.1f} ms"
    return f"{head}TTFT {record.ttft_ms:.1f} ms, TPOT {tpot}, E2EL {record.e2el_ms:.1f} ms"


def gaps_over_time(result: InterferenceResult) -> str:
    """A strip per stream; each gap is an upright at its end, as high as it was long. All strips have one scale."""
    phases, streams = result.phases, result.config.streams
    measured = Gaps(result.streams, phases.quiet_from, phases.busy_until).gaps_ms
    scale_ms = max(measured, default=0.0) or 1.0
    height = min(64.0, max(18.0, 520.0 / streams))
    x = Axis(TIME, 0.0, phases.busy_until)
    y = Axis("gap in ms, one strip per stream", 0.0, streams + 20 / height)
    chart = Chart(x, y, width=WIDE, height=streams * height + 20 + TOP + BOTTOM, has_y_ticks=False)
    for record in result.longs:
        begin = record.reply.chunks_s[0] if record.error is None else record.end_s
        chart.bar(record.due_s, begin, streams / 2, streams * height, "long", f"long prompt {_tip(record)}")
        chart.path(f"M{chart.left(record.due_s):.1f} {chart.top(streams):.1f}V{chart.top(0):.1f}", "long")
    for index in range(streams):
        _strip(chart, [r for r in result.streams if r.index == index], streams - 1 - index, scale_ms)
    for begin, words in ((0.0, "start"), (phases.quiet_from, "quiet"), (phases.busy_from, "busy: long prompts arrive")):
        if words == "start" and phases.quiet_from < 0.06 * phases.busy_until:
            continue  # no room for the word
        chart.upright(begin, "mark-line")
        chart.text(chart.left(begin) + 4, TOP + 12, words, "mark")
    caption = (
        f"<figcaption>{_key('one', 'gap')}{_key('two', 'long prompt: arrival, and shaded until its first token')}."
        f" Every strip reaches from 0 to {number(scale_ms)} ms.</figcaption>"
    )
    return f"<figure>{caption}{chart.svg('Gaps between the tokens of each stream over time')}</figure>"


def _strip(chart: Chart, records: Sequence[Record], base: int, scale_ms: float) -> None:
    tallest: dict[int, float] = {}
    for record in records:
        for at, gap_ms in zip(record.reply.chunks_s[1:], record.itl_ms, strict=True):
            if at <= chart.x.high:
                pixel = round(chart.left(at))
                tallest[pixel] = max(tallest.get(pixel, 0.0), min(gap_ms, scale_ms))
    floor, right = chart.top(base), chart.width - RIGHT
    chart.path(f"M{LEFT} {floor:.1f}H{right}", "grid")
    spikes = (f"M{pixel} {floor:.1f}V{chart.top(base + gap / scale_ms * 0.92):.1f}" for pixel, gap in tallest.items())
    chart.path("".join(spikes), "spike")
    chart.text(LEFT - 6, floor, "0", "tick", "end")
    chart.text(LEFT - 6, chart.top(base + 0.92) + 8, f"{scale_ms:.3g}", "tick", "end")


def _key(kind: str, words: str) -> str:
    return f'<span class="key {kind}"></span>{escape(words)}'


def _pairs(figures: Iterable[str]) -> str:
    told = '<p class="note">Share of values that are not greater; dashed are the median and the 99th percentile.</p>'
    return f'{told}<div class="pair">{"".join(figures)}</div>'
