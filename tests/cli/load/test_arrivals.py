import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.load.arrivals import arrival_times
from engine.errors import ConfigError


@given(
    count=st.integers(1, 200),
    rate=st.floats(0.01, 1000.0),
    burstiness=st.floats(0.05, 100.0),
    seed=st.integers(0, 1000),
)
def test_every_request_is_due_in_order_and_the_last_one_at_count_over_rate(
    count: int, rate: float, burstiness: float, seed: int
) -> None:
    due = arrival_times(count, rate, burstiness, np.random.default_rng(seed))
    assert len(due) == count
    assert due[0] >= 0
    assert all(a <= b for a, b in zip(due, due[1:], strict=False))
    assert due[-1] == pytest.approx(count / rate)
    assert due == arrival_times(count, rate, burstiness, np.random.default_rng(seed))


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_vary_as_gamma_ones_of_that_shape_do(burstiness: float) -> None:
    gaps = np.diff(arrival_times(20_000, 4.0, burstiness, np.random.default_rng(0)))
    assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(burstiness), rel=0.05)


def test_an_infinite_rate_is_all_at_once_and_infinite_burstiness_is_evenly_spaced() -> None:
    rng = np.random.default_rng(0)
    assert arrival_times(3, math.inf, 1.0, rng) == [0, 0, 0]
    assert arrival_times(4, 2.0, math.inf, rng) == [0.5, 1.0, 1.5, 2.0]
    assert arrival_times(0, 2.0, 1.0, rng) == []


@pytest.mark.parametrize(("rate", "burstiness"), [(0, 1), (-1, 1), (math.nan, 1), (1, 0), (1, -1), (1, math.nan)])
def test_rates_and_shapes_that_are_not_greater_than_0_are_refused(rate: float, burstiness: float) -> None:
    with pytest.raises(ConfigError):
        arrival_times(1, rate, burstiness, np.random.default_rng(0))
