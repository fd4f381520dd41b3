"""The ledger: segments are never negative and add up, whatever workers claim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.ledger import SECOND_TOKEN_SEGMENTS, TTFT_SEGMENTS, Ledger

MS = 1_000_000
lengths = st.integers(0, 10**10)
clocks = st.integers(0, 10**15)


def ledger(admit: int, tokenize: int, route: int, grant: int, rest: int, **fields: int) -> Ledger:
    tokenized = 1000 + admit + tokenize
    return Ledger(
        arrived_ns=1000,
        checked_ns=1000 + admit,
        tokenized_ns=tokenized,
        route_ns=route,
        granted_ns=tokenized + route + grant,
        first_token_ns=tokenized + route + grant + rest,
        **fields,
    )


@given(lengths, lengths, lengths, lengths, lengths, lengths, lengths)
def test_the_segments_of_ttft_add_up(
    admit: int, tokenize: int, route: int, grant: int, rest: int, queue: int, compute: int
) -> None:
    timing = ledger(admit, tokenize, route, grant, rest, queue_ns=queue, compute_ns=compute).timing()

    assert tuple(timing.ttft_segments) == TTFT_SEGMENTS
    assert all(value >= 0 for value in timing.ttft_segments.values())
    assert sum(timing.ttft_segments.values()) == pytest.approx(timing.ttft_ms)
    assert timing.second_token_ms is None


@given(lengths, clocks, clocks, lengths)
def test_the_segments_of_the_second_token_add_up(second: int, commit: int, step_start: int, step: int) -> None:
    made = ledger(1, 1, 1, 1, 1, commit_ns=commit, step_start_ns=step_start, step_end_ns=step_start + step)
    made.second_token_ns = made.first_token_ns + second
    timing = made.timing()

    assert timing.second_token_ms == pytest.approx(second / MS)
    assert tuple(timing.second_token_segments) == SECOND_TOKEN_SEGMENTS
    assert all(value >= 0 for value in timing.second_token_segments.values())
    assert sum(timing.second_token_segments.values()) == pytest.approx(timing.second_token_ms)


def test_a_plain_request() -> None:
    timing = ledger(1 * MS, 2 * MS, 3 * MS, 4 * MS, 10 * MS, queue_ns=5 * MS, compute_ns=2 * MS).timing()

    assert list(timing.ttft_segments.values()) == [1, 2, 3, 4, 5, 2, 0, 3]
    assert timing.ttft_ms == 20


def test_a_second_token_after_a_transfer_and_one_after_local_prefill() -> None:
    made = ledger(0, 0, 0, 0, 0, commit_ns=100 * MS, step_start_ns=103 * MS, step_end_ns=108 * MS)
    made.second_token_ns = made.first_token_ns + 20 * MS
    assert list(made.timing().second_token_segments.values()) == [12, 3, 5]
    made.commit_ns = 0
    assert list(made.timing().second_token_segments.values()) == [0, 15, 5]


def test_wall_clock_follows_the_monotonic_one() -> None:
    made = Ledger(arrived_ns=100, arrived_unix_ns=5000)
    assert made.unix_ns(130) == 5030
