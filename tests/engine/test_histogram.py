"""Buckets that double, against comparing with every edge."""

from hypothesis import given
from hypothesis import strategies as st

from engine.histogram import FIRST_STEP_S, MAX_BUCKETS, Buckets, Histogram, StepMeter


@given(st.lists(st.floats(0, 1e12), max_size=40), st.sampled_from([1.0, FIRST_STEP_S, 0.25]))
def test_every_value_is_in_its_bucket(values: list[float], first: float) -> None:
    made = Histogram(first)
    for value in values:
        made.add(value)
    expected = [0] * MAX_BUCKETS
    for value in values:
        expected[next((i for i in range(MAX_BUCKETS - 1) if value / first <= 2.0**i), MAX_BUCKETS - 1)] += 1
    counts = made.now.counts
    assert [*counts, *[0] * (MAX_BUCKETS - len(counts))] == expected
    assert made.now.sum == sum(values)


def test_an_edge_belongs_to_the_bucket_that_it_ends() -> None:
    made = Histogram()
    for value in (1, 2, 3, 4, 5):
        made.add(value)
    assert made.now == Buckets((1, 1, 2, 1), 15.0)


def test_what_is_told_does_not_change() -> None:
    meter = StepMeter()
    meter.add(0.01, 4, 20)
    told = meter.now
    meter.add(0.02, 4, 20)
    assert told.tokens == Buckets((0, 0, 0, 0, 0, 1), 20.0)
    assert meter.now.tokens.sum == 40.0
    assert told.seconds.sum == 0.01
