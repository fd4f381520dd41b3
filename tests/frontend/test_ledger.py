"""The ledger: segments are never negative and add up, whatever workers claim."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.clock import Moment
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
    assert list(made.timing().second_token_segments.values()) == [12, 3, 5, 0]
    made.commit_ns = 0
    assert list(made.timing().second_token_segments.values()) == [0, 15, 5, 0]


@dataclass(frozen=True)
class Truth:
    """What really happened, in nanoseconds; of clocks nobody knows."""

    there: int
    queue: int
    compute: int
    back: int
    handed: int
    """From when the token was heard of to when it was taken."""
    tail: int
    """From then to the commit."""
    join: int
    step: int
    second_back: int

    def made(self, prefill: "ClockOf", decode: "ClockOf") -> Ledger:
        """The ledger, of what workers say by clocks that are known so well."""
        made = ledger(MS, MS, MS, MS, 0, queue_ns=self.queue, compute_ns=self.compute)
        made.first_token_ns = 0
        made.sent_ns = made.granted_ns
        first = made.granted_ns + self.there + self.queue + self.compute
        heard = first + self.back
        made.heard(row(0, heard), prefill.here(first))
        made.first_token_ns = heard + self.handed
        commit = made.first_token_ns + self.tail
        start = commit + self.join
        second = start + self.step
        made.commit_ns, made.step_start_ns, made.step_end_ns = (decode.says(at) for at in (commit, start, second))
        made.heard(row(1, second + self.second_back), decode.here(second))
        made.second_token_ns = second + self.second_back
        return made


@dataclass(frozen=True)
class ClockOf:
    """A worker's clock, and what is known of it."""

    ahead: int
    error: int
    """Of what is known."""
    within: int | None

    def says(self, at_ns: int) -> int:
        return at_ns + self.ahead

    def here(self, at_ns: int) -> Moment | None:
        return None if self.within is None else Moment(at_ns + self.error, self.within)


spans = st.integers(0, 10 * MS)
truths = st.builds(Truth, spans, spans, spans, spans, spans, spans, spans, spans, spans)


@st.composite
def known_clocks(draw: st.DrawFn) -> ClockOf:
    within = draw(st.integers(0, 3 * MS))
    return ClockOf(draw(clocks), draw(st.integers(-within, within)), within)


wrong_clocks = st.builds(ClockOf, clocks, st.integers(-(10**10), 10**10), st.none() | st.integers(0, 10**6))


@given(truths, known_clocks(), known_clocks())
def test_segments_are_the_truth_but_for_what_is_not_known_of_clocks(
    truth: Truth, prefill: ClockOf, decode: ClockOf
) -> None:
    timing = truth.made(prefill, decode).timing()
    segments, second = timing.ttft_segments, timing.second_token_segments
    assert prefill.within is not None
    assert decode.within is not None
    assert timing.clock_within_ms == max(prefill.within, decode.within) / MS
    assert segments["prefill_queue"] == pytest.approx(truth.queue / MS), "as long as the worker says"
    assert segments["prefill_compute"] == pytest.approx(truth.compute / MS)
    assert segments["egress"] == pytest.approx((truth.there + truth.back + truth.handed) / MS)
    assert timing.way_ms == pytest.approx(truth.there / MS, abs=prefill.within / MS + 1e-6)
    for name, value in {
        "transfer_tail": truth.tail,
        "decode_queue": truth.join,
        "decode_step": truth.step,
        "decode_egress": truth.second_back,
    }.items():
        assert second[name] == pytest.approx(value / MS, abs=decode.within / MS + 1e-6), name


@given(truths, wrong_clocks, wrong_clocks)
def test_clocks_that_are_wrong_move_time_between_neighbours_and_no_further(
    truth: Truth, prefill: ClockOf, decode: ClockOf
) -> None:
    """By seconds, and nobody knows it: what is measured by one clock alone stays, and the sums do."""
    timing = truth.made(prefill, decode).timing()
    segments, second = timing.ttft_segments, timing.second_token_segments
    assert sum(segments.values()) == pytest.approx(timing.ttft_ms)
    assert sum(second.values()) == pytest.approx(timing.second_token_ms)
    assert all(value >= 0 for value in (*segments.values(), *second.values()))
    assert segments["prefill_queue"] == pytest.approx(truth.queue / MS)
    assert segments["prefill_compute"] == pytest.approx(truth.compute / MS)
    assert 0 <= timing.way_ms <= segments["egress"] + 1e-6
    if prefill.within is None or decode.within is None:
        assert timing.clock_within_ms is None


def test_a_prompt_that_decode_computes_waits_there_before_its_grant_is_heard_of() -> None:
    """The worker's queue begins when the leg comes there; until the grant is heard of that is `grant`."""
    made = ledger(0, 0, 0, 10 * MS, 0, queue_ns=30 * MS, compute_ns=5 * MS)
    made.first_token_ns, made.sent_ns = 0, made.granted_ns - 10 * MS
    made.heard(row(0, made.granted_ns + 32 * MS), Moment(made.granted_ns + 31 * MS, MS))
    made.first_token_ns = made.granted_ns + 32 * MS
    timing = made.timing()
    assert timing.ttft_segments["grant"] == 10
    assert timing.ttft_segments["prefill_queue"] == 26
    assert timing.ttft_segments["prefill_compute"] == 5
    assert timing.ttft_segments["egress"] == 1
    assert timing.way_ms == 0


def test_what_is_heard_again_changes_nothing() -> None:
    made = Ledger()
    made.took([row(0, made.arrived_ns)])
    made.heard(row(0, made.arrived_ns), Moment(made.arrived_ns, 5))
    assert made.timing().clock_within_ms is None


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
    parts = {"transfer_tail": 0, "decode_queue": 80, "decode_step": 20, "decode_egress": 0, "client": 800}
    assert timing.second_token_segments == parts
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
