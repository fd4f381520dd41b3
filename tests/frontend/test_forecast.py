"""Forecasts against a simulation of what they predict: places that come free, and those who take them in turn."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.forecast import Bias, Forecast, Margin, Pace, Quantile, wait_s

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
def test_a_share_of_times_is_within_its_quantile(share: float) -> None:
    rng, quantile, late = random.Random(0), Quantile(share), []
    for number in range(5000):
        now_s, actual_s = number / 100, rng.uniform(0.8, 1.8)
        late.append(actual_s > quantile.times(now_s))
        quantile.note(longer=late[-1], now_s=now_s)
    assert sum(late[1000:]) / len(late[1000:]) == pytest.approx(1 - share, abs=0.03)


def test_a_quantile_keeps_within_bounds() -> None:
    quantile = Quantile(0.9, least=0.5)
    for longer, times in ((True, 8.0), (False, 0.5)):
        for _ in range(300):
            quantile.note(longer=longer, now_s=0.0)
        assert quantile.times(0.0) == pytest.approx(times)


def test_a_correction_that_nobody_can_prove_wrong_is_forgotten() -> None:
    quantile = Quantile(0.9)
    for _ in range(100):
        quantile.note(longer=True, now_s=0.0)
    times = [quantile.times(now_s) for now_s in (0.0, 20.0, 40.0, 200.0)]
    assert times == pytest.approx([8, 8**0.5, 8**0.25, 1], rel=0.01)


@pytest.mark.parametrize(("likely", "promise"), [(1.5, 2.0), (0.5, 1.0), (0.5, 3.0), (1.0, 1.0)])
@pytest.mark.parametrize("grain_s", [0.0, 0.5])
def test_who_comes_back_when_told_is_let_in(likely: float, promise: float, grain_s: float) -> None:
    """A queue of which a second's work is done in `likely` seconds, as forecasts have found out."""
    forecast = Forecast(9, 18.0, 1.0, likely, promise, grain_s)
    assert forecast.promised_s >= forecast.ttft_s >= likely * 19.0
    retry_after_s = forecast.until_promised_s(forecast.computed_s, 6.0)
    then = replace(forecast, wait_s=18.0 - retry_after_s / likely)
    assert then.promised_s == pytest.approx(6.0)


def test_half_come_sooner_than_is_likely() -> None:
    rng, bias, late = random.Random(0), Bias(), 0
    for number in range(5000):
        forecast = Forecast(1, 1.0, 1.0, bias.likely.times(number / 100), 1.0, bias.grain_s)
        actual_s = 2 * rng.uniform(0.8, 1.8)
        late += actual_s > forecast.ttft_s
        bias.came_true(forecast.computed_s, actual_s, number / 100)
    assert late / 5000 == pytest.approx(0.5, abs=0.03)


def test_what_all_are_late_by_makes_a_long_one_no_later_than_that() -> None:
    """Each first token comes up to 0.2 s later than computed, however long that is."""
    rng, bias = random.Random(0), Bias()
    for number in range(2000):
        computed_s = rng.choice([0.02, 0.1, 0.5])
        bias.came_true(computed_s, computed_s + rng.uniform(0, 0.2), number / 10)
    short, long = (Forecast(0, 0.0, first_s, bias.likely.times(200.0), 1.0, bias.grain_s) for first_s in (0.02, 0.5))
    assert 0.06 < short.ttft_s < 0.2
    assert 0.55 < long.ttft_s < 0.8, "not five times, as of the short one"


def let_in_by(
    margin: Margin, rng: random.Random, computed: list[float], *, seconds_each: float
) -> list[tuple[float, float]]:
    """Of those that take what is likely, give or take a half, those that are promised to come within a second: what is
    likely, and what it comes to."""
    let_in = []
    for number, likely_s in enumerate(computed):
        now_s = number * seconds_each
        if Forecast(0, 0.0, likely_s, 1.0, margin.promise.times(now_s)).promised_s <= 1.0:
            actual_s = likely_s * rng.uniform(0.5, 1.5)
            let_in.append((likely_s, actual_s))
            margin.came_true(likely_s, actual_s, 1.0, now_s)
    return let_in


def test_of_those_who_might_miss_their_limit_almost_all_that_are_let_in_do_not() -> None:
    rng = random.Random(0)
    let_in = let_in_by(Margin(), rng, [rng.uniform(0.3, 3.0) for _ in range(20_000)], seconds_each=0.01)
    late = [actual_s > 1.0 for _, actual_s in let_in]
    assert sum(late) / len(late) == pytest.approx(0.05, abs=0.03)


def test_where_nobody_comes_near_his_limit_the_odd_one_that_does_is_let_in() -> None:
    rng = random.Random(0)
    margin = Margin()
    quick = [0.1] * 50 + [0.7]
    let_in = let_in_by(margin, rng, quick * 20, seconds_each=0.25)
    assert sum(likely_s == 0.7 for likely_s, _ in let_in) >= 18
    assert sum(actual_s > 1.0 for _, actual_s in let_in) < 0.02 * len(let_in)
