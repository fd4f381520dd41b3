"""Clocks against the truth: workers' that are wrong, drift and jump, over ways that are slow, uneven and lossy."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.clock import DRIFT, own_axis
from frontend.clock import Clock, Estimate
from protos import worker_pb2 as pb

S, MS = 1_000_000_000, 1_000_000
NOON = 1_700_000_000 * S
OURS = 3_000_000 * S
"""Our clock, when the story begins."""

offsets = st.integers(-(10**14), 10**14)
delays = st.one_of(st.integers(0, 5 * MS), st.integers(0, 3 * S))
rates = st.lists(st.floats(-DRIFT, DRIFT), min_size=1, max_size=8)


@dataclass
class Truth:
    """A worker's monotonic clock, by ours: wrong from the beginning, at another rate every ten seconds."""

    ahead_ns: int
    rates: list[float]
    jumps: list[tuple[int, int]] = field(default_factory=list)
    """When, and how far."""

    def ahead(self, at_ns: int) -> int:
        """Of our clock, at this moment of it."""
        since, drifted = at_ns - OURS, 0.0
        for number in count():
            part = since if number == len(self.rates) - 1 else min(since, 10 * S)
            drifted += self.rates[number] * part
            since -= part
            if since <= 0:
                return self.ahead_ns + int(drifted) + sum(jump for when, jump in self.jumps if when <= at_ns)
        raise AssertionError

    def says(self, at_ns: int) -> int:
        return at_ns + self.ahead(at_ns)


@dataclass(frozen=True)
class Exchange:
    """One question: what it and its answer take, and what becomes of them."""

    after_ns: int
    """The question before it."""
    there_ns: int
    stay_ns: int
    back_ns: int
    lost: bool
    again_ns: int | None
    """The answer comes a second time, so much later."""


exchanges = st.lists(
    st.builds(
        Exchange,
        after_ns=st.integers(1, 2 * S),
        there_ns=delays,
        stay_ns=delays,
        back_ns=delays,
        lost=st.booleans(),
        again_ns=st.none() | st.integers(0, 5 * S),
    ),
    min_size=1,
    max_size=30,
)


SHIFT = 10**15
"""On a worker's clock, so that it is never negative, as none is."""


def told(clock: Clock, truth: Truth, story: list[Exchange]) -> Iterator[tuple[int, pb.ClockReply]]:
    """Ask, and have the answers come, in the order of time; says of each that is taken when that was."""
    happens: list[tuple[int, int, pb.ClockReply | None]] = []
    number, asked = count(), OURS
    for each in story:
        asked += each.after_ns
        came = asked + each.there_ns
        left = came + each.stay_ns
        received, answered = (SHIFT + truth.says(at) for at in (came, left))
        reply = pb.ClockReply(sent_ns=asked, received_ns=received, answered_ns=answered, unix_at_zero_ns=NOON - SHIFT)
        happens.append((asked, next(number), None))
        if not each.lost:
            happens.append((left + each.back_ns, next(number), reply))
            if each.again_ns is not None:
                happens.append((left + each.back_ns + each.again_ns, next(number), reply))
    for at, _, answer in sorted(happens, key=lambda happening: happening[:2]):
        if answer is None:
            clock.probe(at)
        else:
            awaited = answer.sent_ns in clock._asked
            clock.take(answer, at)
            if awaited:
                yield at, answer


def off(clock: Clock, truth: Truth, at_ns: int) -> tuple[int, int]:
    """How far off the clock is about a moment, and how far it says it may be."""
    here = clock.here(SHIFT + truth.says(at_ns))
    assert here is not None
    assert here.within_ns is not None
    return abs(here.ns - at_ns), here.within_ns


@given(offsets, rates, exchanges, st.integers(0, 100 * S))
def test_the_truth_is_always_within_what_is_told(
    ahead: int, rates: list[float], story: list[Exchange], later: int
) -> None:
    """However uneven the ways, whatever is lost, doubled or overtaken."""
    truth, clock = Truth(ahead, rates), Clock()
    for at, _ in told(clock, truth, story):
        for moment in (OURS, at, at + later):
            is_off, may_be = off(clock, truth, moment)
            assert is_off <= may_be
    if all(each.lost for each in story):
        assert clock.here(SHIFT) is None
        assert clock.ahead(OURS) is None


@given(offsets, rates, exchanges, st.integers(-10 * S, 10 * S), st.integers(0, 20 * S))
def test_a_clock_that_jumps_is_found_out_by_the_next_answer(
    ahead: int, rates: list[float], story: list[Exchange], jump: int, when: int
) -> None:
    """As far as that answer can tell: a jump that is shorter than its round trip may stay hidden in there."""
    truth, clock = Truth(ahead, rates, [(OURS + when, jump)]), Clock()
    for at, reply in told(clock, truth, story):
        if reply.sent_ns > OURS + when:
            estimate = Estimate.of(reply, at)
            assert estimate is not None
            is_off, may_be = off(clock, truth, at)
            assert is_off <= may_be + 2 * estimate.room_ns


@example(3 * S)
@example(-3 * S)
@given(st.integers(-10 * S, 10 * S).filter(lambda jump: abs(jump) > 10 * MS))
def test_after_a_long_jump_the_truth_is_within_again(jump: int) -> None:
    truth, clock = Truth(5 * S, [0.0], [(OURS + 5 * S, jump)]), Clock()
    story = [Exchange(S, 1 * MS, 0, 2 * MS, lost=False, again_ns=None) for _ in range(10)]
    *_, (at, _) = told(clock, truth, story)
    is_off, may_be = off(clock, truth, at)
    assert is_off <= may_be < 3 * MS


def answer(clock: Clock, sent: int, way: int, stay: int, back: int, ahead: int, unix_at_zero: int = NOON) -> int:
    """Ask and be answered; says when that was over."""
    clock.probe(sent)
    came = sent + way + ahead
    reply = pb.ClockReply(sent_ns=sent, received_ns=came, answered_ns=came + stay, unix_at_zero_ns=unix_at_zero - ahead)
    clock.take(reply, sent + way + stay + back)
    return sent + way + stay + back


def within(clock: Clock, at: int) -> int:
    here = clock.here(at)
    assert here is not None
    assert here.within_ns is not None
    return here.within_ns


def test_the_formula() -> None:
    """RFC 5905's: 30 ms there, 10 back, and 200 on the worker, which is no part of what is unknown."""
    reply = pb.ClockReply(sent_ns=0, received_ns=5 * S + 30 * MS, answered_ns=5 * S + 230 * MS)
    estimate = Estimate.of(reply, 240 * MS)
    assert estimate is not None
    assert estimate.ahead_ns == 5 * S + 10 * MS
    assert estimate.room_ns == pytest.approx(20 * MS + DRIFT * 240 * MS, abs=2)
    assert estimate.within_ns(estimate.at_ns + 100 * S) == pytest.approx(estimate.room_ns + DRIFT * 100 * S, abs=2)


def test_the_shortest_round_trip_counts_until_it_is_old() -> None:
    clock = Clock()
    answer(clock, OURS, 20 * MS, 0, 20 * MS, S)
    at = answer(clock, OURS + S, MS, 0, MS, S)
    assert within(clock, at + S) < 2 * MS
    answer(clock, OURS + 2 * S, 20 * MS, 0, 0, S)
    here = clock.here(OURS + 3 * S + S)
    assert here is not None
    assert here.ns == OURS + 3 * S, "a longer one is passed over"
    at = answer(clock, OURS + 1000 * S, 20 * MS, 0, 20 * MS, S + 90 * MS)
    assert within(clock, at + S) == pytest.approx(20 * MS, rel=0.02), "the old one leaves more open by now"


def test_what_contradicts_itself_or_was_not_asked_says_nothing() -> None:
    clock = Clock()
    clock.take(pb.ClockReply(sent_ns=OURS, received_ns=1, answered_ns=1), OURS + 1)
    clock.probe(OURS)
    clock.take(pb.ClockReply(sent_ns=OURS, received_ns=9, answered_ns=8), OURS + 10)
    clock.probe(OURS + 1)
    clock.take(pb.ClockReply(sent_ns=OURS + 1, received_ns=0, answered_ns=S), OURS + 10)  # longer there than away
    assert clock.here(OURS) is None
    assert not clock.probe(OURS + 20).HasField("axis")


@pytest.mark.parametrize("ahead_s", [-3.0, 0.0, 2.5])
def test_a_wall_clock_that_is_set_shows_with_the_next_answer(ahead_s: float) -> None:
    """Whatever the monotonic clocks say, and though a shorter round trip is known."""
    clock, ours = Clock(), own_axis().unix_at_zero_ns
    answer(clock, OURS, MS, 0, MS, 7 * S, unix_at_zero=ours)
    at = answer(clock, OURS + S, 30 * MS, 0, 30 * MS, 7 * S, unix_at_zero=ours + round(ahead_s * S))
    ahead = clock.ahead(at)
    assert ahead is not None
    assert ahead.seconds == pytest.approx(ahead_s, abs=0.01)
    assert ahead.within_s == pytest.approx(0.0011, abs=0.0005)


def test_the_worker_is_told_where_its_clock_stands_on_our_axis() -> None:
    clock = Clock()
    at = answer(clock, OURS, MS, 0, MS, -40 * S)
    axis = clock.probe(at + S).axis
    theirs = at + S - 40 * S
    assert axis.unix_at_zero_ns + theirs == pytest.approx(own_axis().unix_ns(at + S), abs=20 * MS)
    assert axis.within_ns == within(clock, at + S - 40 * S)
