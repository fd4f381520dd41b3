import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.load.measure import Summary, peak_concurrency, summarize
from tests.cli.load.records import record

BY_HAND = [
    record(0, 0.0, (1.0, 2.0, 4.0), tokens=5),  # TTFT 1000, E2EL 4000, TPOT 3000 / 4, gaps 1000 and 2000
    record(1, 1.0, (1.5, 2.5)),  # TTFT 500, E2EL 1500, TPOT 1000, gap 1000
    record(2, 3.0, (3.2,), due_s=2.9),  # TTFT and E2EL 200, one token: no TPOT, no gap
    record(3, 2.0, (2.001,), error="stream cut short", end_s=5.0),  # in no latency
]
VLLM_NAMES = {
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    *(f"{statistic}_{metric}_ms" for statistic in ("mean", "std", "median", "p99") for metric in ("ttft", "tpot")),
    *(f"{statistic}_{metric}_ms" for statistic in ("mean", "std", "median", "p99") for metric in ("itl", "e2el")),
}
"""Of the JSON that `vllm bench serve --save-result` writes."""


def statistics(summary: Summary, metric: str) -> dict[str, float | int | None]:
    return {name: summary[f"{name}_{metric}_ms"] for name in ("mean", "std", "median", "p90", "p95", "p99", "max")}


def numpys(values: list[float]) -> object:
    array = np.array(values)
    counted = {"mean": array.mean(), "std": array.std(), "median": np.median(array), "max": array.max()}
    return pytest.approx({**counted, **{f"p{p}": np.percentile(array, p) for p in (90, 95, 99)}})


def test_latencies_agree_with_hand_counted_ones_and_failures_do_not_count_as_fast() -> None:
    summary = summarize(BY_HAND, 5.0, {})
    assert statistics(summary, "ttft") == numpys([1000, 500, 200])
    assert statistics(summary, "tpot") == numpys([750, 1000])
    assert statistics(summary, "itl") == numpys([1000, 2000, 1000])
    assert statistics(summary, "ttst") == numpys([1000, 1000])
    assert statistics(summary, "e2el") == numpys([4000, 1500, 200])
    assert statistics(summary, "max_gap") == numpys([2000, 1000])


def test_counts_and_rates_agree_with_hand_counted_ones() -> None:
    summary = summarize(BY_HAND, 5.0, {})
    assert (summary["completed"], summary["failed"]) == (3, 1)
    assert (summary["total_input_tokens"], summary["total_output_tokens"]) == (30, 8)
    assert summary["request_throughput"] == pytest.approx(3 / 5)
    assert summary["output_throughput"] == pytest.approx(8 / 5)
    assert summary["total_token_throughput"] == pytest.approx(38 / 5)
    assert summary["tokens_per_chunk"] == pytest.approx(8 / 6)
    assert summary["max_send_lag_ms"] == pytest.approx(100)
    assert summary["max_output_tokens_per_s"] == 2, "chunks in seconds 0 to 4: 0, 2, 2, 1, 1"
    assert summary["max_concurrent_requests"] == 2, "open in seconds 0 to 4: 1, 2, 2, 2, 1"
    assert summary["peak_concurrency"] == 3, "the failed one was open too"


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({"ttft": 500.0}, 2),
        ({"ttft": 499.0}, 1),
        ({"tpot": 800.0}, 2),  # an answer of one token has a TPOT of 0
        ({"e2el": 1500.0}, 2),
        ({"ttft": 1000.0, "tpot": 1000.0, "e2el": 4000.0}, 3),
        ({"ttft": 500.0, "tpot": 800.0}, 1),  # each limit has two that meet it, but only one meets both
    ],
)
def test_a_good_request_meets_every_limit(limits: dict[str, float], good: int) -> None:
    summary = summarize(BY_HAND, 5.0, limits)
    assert summary["request_goodput"] == pytest.approx(good / 5)
    assert summary["goodput_share"] == pytest.approx(good / 4)


def test_the_names_are_those_of_vllm() -> None:
    assert set(summarize(BY_HAND, 5.0, {"ttft": 1.0})) >= VLLM_NAMES
    assert "request_goodput" not in summarize(BY_HAND, 5.0, {})


def test_nothing_is_reported_of_nothing() -> None:
    summary = summarize([record(0, 0.0, (), error="HTTP 500")], 0.0, {"ttft": 1.0})
    assert set(statistics(summary, "ttft").values()) == {None}
    assert (summary["completed"], summary["failed"], summary["request_throughput"]) == (0, 1, 0)
    assert (summary["max_concurrent_requests"], summary["request_goodput"]) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), max_size=20))
def test_the_peak_is_that_of_counting_at_every_instant(spans: list[tuple[int, int]]) -> None:
    records = [record(0, float(sent), (), end_s=float(sent + took)) for sent, took in spans]
    brute = max((sum(sent <= at < sent + took for sent, took in spans) for at in range(31)), default=0)
    assert peak_concurrency(records) == brute
