import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.minute import MAX_SAMPLES, WINDOW_S, Minute
from tests.frontend.test_recorder import Clock
from tests.statuses import SEGMENTS, record, refused


def test_before_anything_has_ended_there_is_nothing_to_tell() -> None:
    summary = Minute(Clock()).summary()
    assert (summary.num_answered, summary.num_failed, summary.ttft_segments) == (0, {}, {})
    assert (summary.ttft_mean_ms, summary.ttft_p50_ms, summary.ttft_max_ms) == (None, None, None)
    assert (summary.answers_per_s, summary.output_tokens_per_s, summary.cached_share) == (0, 0, 0)


def test_a_minute() -> None:
    clock = Clock()
    minute = Minute(clock)
    for number in range(4):
        minute.add(record(number, ttft_ms=100.0 * (number + 1)))
    minute.add(refused())
    minute.add(msgspec.structs.replace(refused(), limit="key_tokens"))
    minute.add(record(9, outcome="CANCELLED"))  # it had its first token: nothing was refused to it
    clock.at_s += WINDOW_S / 2
    summary = minute.summary()
    assert summary.over_s == WINDOW_S / 2
    assert summary.num_answered == 5
    assert summary.num_failed == {"OVERLOADED": 1, "key_tokens": 1}
    assert summary.output_tokens == 5 * 64
    assert (summary.prompt_tokens, summary.cached_tokens) == (5 * 812, 5 * 256)
    assert summary.answers_per_s == pytest.approx(5 / 30, abs=1e-3)
    assert summary.prompt_tokens_per_s == pytest.approx(5 * 812 / 30, abs=1e-3)
    assert summary.output_tokens_per_s == pytest.approx(5 * 64 / 30, abs=1e-3)
    assert summary.cached_share == pytest.approx(256 / 812, abs=1e-4)
    assert (summary.ttft_p50_ms, summary.ttft_p95_ms, summary.ttft_max_ms) == (200.0, 400.0, 400.0)
    assert summary.ttft_segments == SEGMENTS
    clock.at_s += WINDOW_S / 2
    assert (minute.summary().num_answered, minute.summary().over_s) == (0, WINDOW_S)


@given(st.lists(st.lists(st.floats(0, 1e5), min_size=8, max_size=8), min_size=1, max_size=30))
def test_the_mean_segments_add_up_to_the_mean(parts: list[list[float]]) -> None:
    minute = Minute(Clock())
    for values in parts:
        minute.add(record(ttft_ms=sum(values), ttft_segments=dict(zip(SEGMENTS, values, strict=True))))
    summary = minute.summary()
    assert summary.ttft_mean_ms is not None
    assert abs(sum(summary.ttft_segments.values()) - summary.ttft_mean_ms) < 0.01


def test_under_load_it_says_how_much_of_a_minute_it_is_of() -> None:
    clock = Clock()
    minute = Minute(clock)
    for number in range(2 * MAX_SAMPLES):
        clock.at_s = number * 0.01
        minute.add(record(number))
    summary = minute.summary()
    assert summary.num_answered == MAX_SAMPLES
    assert summary.over_s == round((MAX_SAMPLES - 1) * 0.01, 1)
