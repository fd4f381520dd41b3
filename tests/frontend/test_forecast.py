"""Forecasts against a simulation of what they predict: places that come free, and those who take them in turn."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.forecast import Bias, Forecast, Pace, Quantile, wait_s

seconds = st.floats(0, 100)


@given(st.lists(seconds, min_size=1, max_size=8), st.lists(seconds, max_size=20))
def test_the_wait_is_that_of_a_queue_before_as_many_places(left: list[float], held: list[float]) -> None:
    free_at = list(left)
    for hold in [*held, 0.0]:
        earliest = min(range(len(free_at)), key=free_at.__getitem__)
        began = free_at[earliest]
        free_at[earliest] += hold
    assert wait_s(left, held) == pytest.approx(began)


def test_where_nobody_is_served_nobody_waits() -> None:
    assert wait_s([], [5.0, 7.0]) == 0


def test_before_any_answer_has_ended_answers_are_as_long_as_they_may_be() -> None:
    assert Pace().tokens_left(0, 100) == 100
    assert Pace().tokens_left(30, 100) == 70


def test_the_first_answers_count_in_equal_shares_and_then_the_latest_count_most() -> None:
    pace = Pace()
    pace.ended(50, 100, 4.9)
    assert (pace.tokens_left(0, 200), pace.token_s) == (100, pytest.approx(0.1))
    pace.ended(100, 100, 9.9)
    assert pace.tokens_left(0, 200) == pytest.approx(150)
    for _ in range(100):
        pace.ended(10, 100, 1.8)
    assert pace.tokens_left(0, 200) == pytest.approx(20, rel=0.01)
    assert pace.token_s == pytest.approx(0.2, rel=0.01)


def test_an_answer_longer_than_expected_is_expected_to_go_on() -> None:
    pace = Pace()
    pace.ended(20, 100, 2.0)
    assert pace.tokens_left(15, 100) == pytest.approx(5)
    assert pace.tokens_left(50, 100) == pytest.approx(10)


def test_answers_of_one_token_say_nothing_of_the_pace() -> None:
    pace = Pace()
    pace.ended(1, 1, 0.0)
    assert pace.token_s == 0


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_a_share_of_first_tokens_comes_within_its_quantile(share: float) -> None:
    rng, quantile, late = random.Random(0), Quantile(share), []
    for number in range(5000):
        now_s, actual_s = number / 100, rng.uniform(0.8, 1.8)
        late.append(actual_s > quantile.times(now_s))
        quantile.came_true(1.0, actual_s, now_s)
    assert sum(late[1000:]) / len(late[1000:]) == pytest.approx(1 - share, abs=0.03)


def test_forecasts_are_corrected_within_bounds() -> None:
    quantile = Quantile(0.9)
    for _ in range(100):
        quantile.came_true(1.0, 50.0, 0.0)
    assert quantile.times(0.0) == pytest.approx(8)
    for _ in range(300):
        quantile.came_true(1.0, 0.0, 0.0)
    assert quantile.times(0.0) == pytest.approx(1 / 8)


def test_a_correction_that_nobody_can_prove_wrong_is_forgotten() -> None:
    quantile = Quantile(0.9)
    for _ in range(100):
        quantile.came_true(1.0, 50.0, 0.0)
    times = [quantile.times(now_s) for now_s in (0.0, 20.0, 40.0, 200.0)]
    assert times == pytest.approx([8, 8**0.5, 8**0.25, 1], rel=0.01)


def test_who_comes_back_when_told_is_let_in() -> None:
    """A queue of which a second's work is done in 1.5 seconds, as forecasts have found out."""
    forecast = Forecast(9, wait_s=8.0, first_s=1.0, likely=1.5, promise=2.0)
    assert (forecast.ttft_s, forecast.promised_s, forecast.promised(forecast.wait_s)) == (13.5, 18.0, 16.0)
    retry_after_s = forecast.until_promised_s(forecast.computed_s, 6.0)
    then = replace(forecast, wait_s=8.0 - retry_after_s / 1.5)
    assert then.promised_s == pytest.approx(6.0)


def test_who_comes_back_when_told_is_let_in_where_short_forecasts_are_off_by_more_of_themselves() -> None:
    forecast = Forecast(9, wait_s=8.0, first_s=1.0, likely=1.5, promise=2.0, grain_s=0.5)
    assert forecast.promised_s == 18.5
    retry_after_s = forecast.until_promised_s(forecast.computed_s, 6.0)
    then = replace(forecast, wait_s=8.0 - retry_after_s / 1.5)
    assert then.promised_s == pytest.approx(6.0)


def test_what_all_forecasts_are_off_by_makes_a_long_one_no_longer_than_that() -> None:
    """Each first token comes up to 0.2 s later than computed, however long that is."""
    rng, bias = random.Random(0), Bias()
    for number in range(2000):
        computed_s = rng.choice([0.02, 0.1, 0.5])
        bias.came_true(computed_s, computed_s + rng.uniform(0, 0.2), number / 10)
    short, long = (bias.corrected(0, 0.0, first_s, 200.0) for first_s in (0.02, 0.5))
    assert 0.1 < short.promised_s < 0.5
    assert 0.6 < long.promised_s < 1.0
    assert long.promised_s < long.computed_s * short.promised_s / short.computed_s / 3


def test_half_come_sooner_than_is_likely_and_almost_all_within_the_promise() -> None:
    rng, bias, late, unkept = random.Random(0), Bias(), 0, 0
    for number in range(5000):
        forecast = bias.corrected(1, 1.0, 1.0, now_s := number / 100)
        actual_s = 2 * rng.uniform(0.8, 1.8)
        late, unkept = late + (actual_s > forecast.ttft_s), unkept + (actual_s > forecast.promised_s)
        bias.came_true(forecast.computed_s, actual_s, now_s)
    assert late / 5000 == pytest.approx(0.5, abs=0.03)
    assert unkept / 5000 == pytest.approx(0.05, abs=0.02)
