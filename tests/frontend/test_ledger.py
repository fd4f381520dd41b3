"""The ledger: segments are never negative and add up, whatever workers claim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.ledger import IF_ANY, SECOND_TOKEN_SEGMENTS, TTFT_SEGMENTS, Ledger
from frontend.leg_events import Row
from protos import worker_pb2 as pb

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

    assert tuple(timing.ttft_segments) == tuple(name for name in TTFT_SEGMENTS if name not in IF_ANY)
    assert all(value >= 0 for value in timing.ttft_segments.values())
    assert sum(timing.ttft_segments.values()) == pytest.approx(timing.ttft_ms)
    assert timing.second_token_ms is None


@given(lengths, clocks, clocks, lengths)
def test_the_segments_of_the_second_token_add_up(second: int, commit: int, step_start: int, step: int) -> None:
    made = ledger(1, 1, 1, 1, 1, commit_ns=commit, step_start_ns=step_start, step_end_ns=step_start + step)
    made.second_token_ns = made.first_token_ns + second
    timing = made.timing()

    assert timing.second_token_ms == pytest.approx(second / MS)
    assert tuple(timing.second_token_segments) == tuple(n for n in SECOND_TOKEN_SEGMENTS if n not in IF_ANY)
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


@given(lengths, lengths, lengths, lengths, lengths, st.booleans(), st.data())
def test_attempts_that_failed_are_told_apart_from_waiting(
    grant: int, lost: int, again: int, rest: int, work: int, was_granted: bool, data: st.DataObject
) -> None:
    """Room was found, or not; then the attempt failed, and room was found again."""
    made = Ledger(arrived_ns=1, checked_ns=1, tokenized_ns=1)
    if was_granted:
        made.granted_ns = 1 + grant
        made.route_ns = made.granted_route_ns = data.draw(st.integers(0, grant))
        made.interrupted()
        assert made.lost_ns == made.granted_ns
    else:
        made.route_ns = data.draw(st.integers(0, grant))
        made.lost_ns, made.lost_route_ns = 1 + grant, made.route_ns
    made.interrupted()  # another time: the first one counts
    waiting = made.so_far(made.lost_ns + lost)
    assert list(waiting)[-1] == "retry"
    assert sum(waiting.values()) == pytest.approx((grant + lost) / MS)

    routed = data.draw(st.integers(0, again))
    made.route_ns += routed
    made.granted_ns, made.granted_route_ns = made.lost_ns + lost + again, made.route_ns
    made.first_token_ns = made.granted_ns + rest
    made.compute_ns = work
    timing = made.timing()
    segments = timing.ttft_segments
    assert segments["grant"] == pytest.approx((grant - made.lost_route_ns) / MS)
    assert segments.get("retry", 0.0) == pytest.approx((lost + again - routed) / MS)
    assert sum(segments.values()) == pytest.approx(timing.ttft_ms)
    assert all(value >= 0 for value in segments.values())


def test_an_attempt_that_fails_after_the_first_token_delays_no_first_token() -> None:
    made = ledger(1, 1, 1, 1, 1)
    made.interrupted()
    assert "retry" not in made.timing().ttft_segments


def row(index: int, heard_ns: int, start_ns: int = 0, end_ns: int = 0) -> Row:
    return Row(index, 7, pb.FINISH_REASON_UNSPECIFIED, None, start_ns, end_ns, heard_ns=heard_ns)


def test_a_client_that_is_slow_to_take_the_first_token_delays_the_second() -> None:
    made = Ledger()
    made.took([row(0, made.arrived_ns)])
    handed = made.first_token_ns
    made.handed_ns, made.resumed_ns = handed, handed + 900 * MS
    made.took([row(1, handed + 100 * MS, 0, 20 * MS)])  # it was here long before it was taken
    made.second_token_ns = made.resumed_ns
    timing = made.timing()
    assert timing.second_token_segments == {"transfer_tail": 0, "decode_queue": 80, "decode_step": 20, "client": 800}
    assert timing.client_ms == 800


def test_a_client_that_takes_tokens_before_the_next_one_is_there_delays_nothing() -> None:
    made = Ledger()
    made.took([row(0, made.arrived_ns)])
    for index in range(1, 5):
        now = made.first_token_ns + index * 10 * MS
        made.handed_ns, made.resumed_ns = now, now + MS
        made.took([row(index, now + 2 * MS)])
    assert made.client_ns == 0
    assert "client" not in made.timing().second_token_segments


def test_waiting_for_the_client_adds_up_over_the_answer() -> None:
    made = Ledger()
    made.took([row(0, made.arrived_ns)])
    for index in range(1, 5):
        now = made.first_token_ns + index * 100 * MS
        made.handed_ns, made.resumed_ns = now, now + 50 * MS
        made.took([row(index, now - 5 * MS)])  # while it had what came before, this one was there already
    assert made.timing().client_ms == 200


def test_wall_clock_follows_the_monotonic_one() -> None:
    made = Ledger(arrived_ns=100, arrived_unix_ns=5000)
    assert made.unix_ns(130) == 5030
