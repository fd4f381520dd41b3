"""Times between tokens, against sorting them by hand."""

from hypothesis import given
from hypothesis import strategies as st

from frontend.gaps import EDGES, Gaps, Pool
from frontend.leg_events import Row
from protos import worker_pb2 as pb

MS = 1_000_000
GOES_ON = pb.FINISH_REASON_UNSPECIFIED


def row(index: int, end_ms: int, heard_ms: int) -> Row:
    return Row(index, 7, GOES_ON, None, 0, end_ms * MS, heard_ns=heard_ms * MS)


def bucket(pool: Pool) -> list[float]:
    """Edges at or below which a gap lies, one for each gap."""
    edges = (*EDGES, float("inf"))
    return [edge for edge, count in zip(edges, pool.counts, strict=True) for _ in range(count)]


def test_by_the_clock_of_who_made_both() -> None:
    gaps = Gaps()
    gaps.took([row(0, 5_000, 100)])  # by a prefill worker, whose clock is its own
    gaps.took([row(1, 20, 130)])
    gaps.took([row(2, 40, 200), row(3, 60, 200)])  # handed on together
    assert bucket(gaps.pool) == [0.025, 0.025, 0.05]
    assert gaps.pool.sum_ns == (30 + 20 + 20) * MS


def test_another_attempt_has_other_clocks() -> None:
    gaps = Gaps()
    gaps.took([row(0, 5, 5)])
    gaps.took([row(1, 10, 10)])
    gaps.took([row(2, 14, 14)])
    gaps.interrupted()
    gaps.took([row(3, 999_000, 614)])  # prefill, which computes the answer so far
    gaps.took([row(4, 3, 620)])  # decode
    gaps.took([row(5, 7, 900)])
    assert gaps.pool.sum_ns == (5 + 4 + 600 + 6 + 4) * MS


@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=30))
def test_every_gap_is_in_the_bucket_that_prometheus_has_for_it(lengths: list[int]) -> None:
    gaps, now = Gaps(), 0
    gaps.took([Row(0, 7, GOES_ON, None, 0, 0), Row(1, 7, GOES_ON, None, 0, 0)])
    for index, length in enumerate(lengths, 2):
        now += length
        gaps.took([Row(index, 7, GOES_ON, None, 0, now)])
    edges = (*EDGES, float("inf"))
    expected = [min(edge for edge in edges if length <= edge * 1e9) for length in (0, *lengths)]
    assert bucket(gaps.pool) == sorted(expected)
    assert gaps.pool.sum_ns == sum(lengths)


def test_pools_add_up() -> None:
    first, second = Gaps(), Gaps()
    for gaps, ms in ((first, 3), (second, 300)):
        gaps.took([row(0, 0, 0), row(1, 0, ms)])
    first.pool.add(second.pool)
    assert bucket(first.pool) == [0.005, 0.3]
    assert first.pool.sum_ns == 303 * MS
