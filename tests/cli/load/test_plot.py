import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.load.figures import CURVE_POINTS, TIMELINE_ROWS, thinned
from cli.load.plot import page
from cli.load.svg import Axis, axis_around, nice
from tests.cli.load.records import record
from tests.cli.load.results import interference_result, load_result

RECORDS = [
    record(0, 0.0, (1.0, 2.0, 4.0), tokens=5),
    record(1, 1.0, (1.5, 2.5), due_s=0.5),
    record(2, 2.0, (), error="HTTP 500: <b>no</b>", end_s=5.0),
]
VOID = {"meta"}


class Balance(HTMLParser):
    """Fails on a tag that closes another; collects text and what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in VOID and tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Balance:
    balance = Balance()
    balance.feed(html)
    balance.close()
    assert balance.open == []
    return balance


def figures(html: str) -> dict[str, ElementTree.Element]:
    """By name; each is XML of its own."""
    drawn = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    return {element.attrib["aria-label"]: element for element in drawn}


def places(chart: ElementTree.Element, side: str) -> list[float]:
    return [float(bar.attrib[side]) for bar in chart.iter("rect")]


def test_the_page_holds_the_figures_and_fetches_nothing() -> None:
    html = page(load_result(RECORDS, name="</title><script>"))
    seen = parsed(html)
    assert seen.fetched == []
    assert "script" not in re.findall(r"<(\w+)", html)
    for words in ("2 completed, 1 failed", "750.00", "a note", "failed: 1 x HTTP 500, first: <b>no</b>"):
        assert words in seen.text
    assert [name.partition(",")[0] for name in figures(html)] == ["TTFT", "TPOT", "ITL", "E2EL", "Requests over time"]
    labels = {text.text for text in figures(html)["Requests over time"].iter("text")}
    assert {"seconds since the start", "0", "5"} <= labels


def test_a_curve_ends_at_its_greatest_value_and_reaches_all() -> None:
    chart = figures(page(load_result(RECORDS)))["TTFT, time to first token"]
    (curve,) = (path.attrib["d"] for path in chart.iter("path") if path.attrib["class"] == "one")
    assert re.fullmatch(r"M[\d.]+ [\d.]+(H[\d.]+V[\d.]+){2}", curve), "two values: two steps"
    heights = [float(height) for height in re.findall(r"V([\d.]+)", curve)]
    assert heights == [pytest.approx(109.0), pytest.approx(10.0)], "half way, and the top"


def test_each_request_is_a_bar_whose_parts_are_as_long_as_it_took() -> None:
    chart = figures(page(load_result(RECORDS)))["Requests over time"]
    second = (1000 - 62 - 14) / 5
    assert [bar.attrib["class"] for bar in chart.iter("rect")] == ["two", "one", "wait", "two", "one", "bad"]
    begins = [0, 1, 0.5, 1, 1.5, 2]
    assert places(chart, "x") == pytest.approx([62 + begin * second for begin in begins], abs=0.1)
    assert places(chart, "width") == pytest.approx([took * second for took in (1, 3, 0.5, 0.5, 1, 3)], abs=0.1)
    tips = [title.text for title in chart.iter("title")]
    assert "TTFT 1000.0 ms, TPOT 750.0 ms, E2EL 4000.0 ms" in (tips[0] or "")
    assert "HTTP 500: <b>no</b>" in (tips[-1] or "")


def test_ten_thousand_requests_are_thinned_and_the_page_says_so() -> None:
    records = [record(i, i / 100, tuple(i / 100 + j / 50 for j in range(1, 6))) for i in range(10_000)]
    html = page(load_result(records))
    assert len(html) < 300_000
    assert len(list(figures(html)["Requests over time"].iter("rect"))) == 2 * TIMELINE_ROWS
    assert f"Shown are {TIMELINE_ROWS} of 10,000 requests" in parsed(html).text
    curve = next(p.attrib["d"] for name, s in figures(html).items() if "ITL" in name for p in s.iter("path"))
    assert curve.count("H") <= CURVE_POINTS


def test_a_page_of_failures_only_has_no_curves() -> None:
    html = page(load_result(RECORDS[2:]))
    assert parsed(html).text.count("no values") == 4


def test_interference_shows_each_stream_the_long_prompts_and_where_they_begin() -> None:
    html = page(interference_result(num_streams=3))
    assert parsed(html).fetched == []
    chart = figures(html)["Gaps between the tokens of each stream over time"]
    second = (1000 - 62 - 14) / 5
    marks = [path.attrib["d"] for path in chart.iter("path") if path.attrib["class"] == "mark-line"]
    uprights = [float(data[1:].split()[0]) for data in marks]
    assert uprights == pytest.approx([62, 62 + 0.5 * second, 62 + 3 * second], abs=0.1), "start, quiet, busy"
    assert places(chart, "x") == pytest.approx([62 + 3 * second, 62 + 4 * second], abs=0.1)
    assert places(chart, "width") == pytest.approx([0.6 * second, 0.1 * second], abs=0.1)
    strips = [path.attrib["d"] for path in chart.iter("path") if path.attrib["class"] == "spike"]
    assert len(strips) == 3
    for strip in strips:
        spikes = {int(x): float(low) - float(high) for x, low, high in re.findall(r"M(\d+) ([\d.]+)V([\d.]+)", strip)}
        assert len(spikes) == 41, "of 42 tokens"
        tallest = max(spikes, key=lambda x: spikes[x])
        assert tallest == pytest.approx(62 + 3.7 * second, abs=1), "the gap of 700 ms ended at 3.7 s"
        assert spikes[tallest] == pytest.approx(7 * min(spikes.values()), rel=0.05)
    assert "from 0 to 700.00 ms" in parsed(html).text
    assert set(figures(html)) >= {"ITL of the streams", "TTFT of the long prompts"}


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_linear_ticks_are_few_round_and_on_the_axis(low: float, span: float) -> None:
    axis = Axis("x", low, low + span)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(-1e-6 <= axis.share(tick) <= 1 + 1e-6 for tick in ticks)


@given(low=st.floats(1e-3, 1e3), factor=st.floats(20.1, 1e6))
def test_wide_values_get_decades_on_the_axis(low: float, factor: float) -> None:
    axis = axis_around("x", [low, low * factor, low])
    assert axis.is_log
    assert 1 <= len(axis.ticks()) <= 9
    assert all(0 <= axis.share(tick) <= 1 + 1e-9 for tick in axis.ticks())
    assert axis.share(low) == 0
    assert axis.share(low * factor) == pytest.approx(1)


@given(st.floats(1e-6, 1e6))
def test_a_round_number_is_the_least_of_1_2_5_that_is_enough(value: float) -> None:
    rounded = nice(value)
    assert value * (1 - 1e-8) <= rounded <= 2.5 * value * (1 + 1e-8)
    assert float(f"{rounded:.6e}".partition("e")[0]) in (1, 2, 5)


@given(count=st.integers(0, 3000), most=st.integers(2, 500))
def test_thinning_keeps_the_ends_and_spreads_evenly(count: int, most: int) -> None:
    kept = thinned(count, most)
    assert len(kept) == min(count, most)
    assert kept == sorted(set(kept))
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)
        steps = {b - a for a, b in zip(kept, kept[1:], strict=False)}
        assert not steps or max(steps) - min(steps) <= 1
