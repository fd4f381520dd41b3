"""Half an hour in periods: what is added up, what is forgotten, and who was served in time."""

from dataclasses import dataclass
from typing import get_args

import msgspec
import pytest

from deploy.observability.promql import KEY_LIMITS as LIMITS_OF_ALERTS
from deploy.observability.promql import SERVER_FAULTS as FAULTS_OF_ALERTS
from engine.errors import KEY_LIMITS, Limit
from frontend.history import (
    LINKS_OVER_S,
    NUM_PERIODS,
    PERIOD_S,
    SERVER_FAULTS,
    TPOT_LIMITS_S,
    TTFT_LIMITS_S,
    History,
    LinkTraffic,
)
from frontend.records import RequestAttempt
from tests.statuses import LOCAL, REMOTE, record, refused

START_S = 1_000.0


@dataclass
class Clock:
    at_s: float = START_S

    def __call__(self) -> float:
        return self.at_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(clock: Clock) -> History:
    return History(clock, lambda: 1.8e9 + clock())


def test_a_period_is_the_sum_of_what_ended_in_it(history: History, clock: Clock) -> None:
    for number in range(3):
        history.add(record(number))
    clock.at_s += PERIOD_S
    history.add(record(ttft_ms=90.0))
    first, second = history.periods()
    assert (first.at_s, second.at_s) == (1_800_001_000, 1_800_001_000 + PERIOD_S)
    assert (first.num_answered, second.num_answered) == (3, 1)
    assert first.ttft_ms == pytest.approx(540.0)
    assert sum(first.ttft_segments.values()) == pytest.approx(first.ttft_ms)
    assert sum(first.second_token_segments.values()) == pytest.approx(first.second_token_ms)
    assert (first.prompt_tokens, first.cached_tokens, first.output_tokens) == (3 * 812, 3 * 256, 3 * 64)


def test_periods_begin_where_they_would_without_requests(history: History, clock: Clock) -> None:
    clock.at_s += PERIOD_S - 0.5
    history.add(record())
    assert [period.at_s for period in history.periods()] == [1_800_001_000]


def test_what_is_old_is_forgotten(history: History, clock: Clock) -> None:
    history.add(record())
    clock.at_s += (NUM_PERIODS - 1) * PERIOD_S
    assert len(history.periods()) == 1
    clock.at_s += PERIOD_S
    assert history.periods() == []
    for _ in range(2 * NUM_PERIODS):
        clock.at_s += PERIOD_S
        history.add(record())
    assert len(history.periods()) == NUM_PERIODS
    assert len(msgspec.json.encode(history.periods())) < 256 << 10


@pytest.mark.parametrize(("ttft_ms", "kept"), [(1.0, 8), (50.0, 8), (50.1, 7), (2_500.0, 3), (10_000.0, 1), (1e6, 0)])
def test_first_tokens_in_time(history: History, ttft_ms: float, kept: int) -> None:
    history.add(record(ttft_ms=ttft_ms))
    (period,) = history.periods()
    assert period.ttft_within == [0] * (len(TTFT_LIMITS_S) - kept) + [1] * kept


def test_further_tokens_in_time(history: History) -> None:
    history.add(record(ttft_ms=100.0, e2e_ms=100.0 + 63 * 25.0))
    history.add(record(ttft_ms=100.0, e2e_ms=101.0, output_tokens=1))
    history.add(record(outcome="CANCELLED", output_tokens=5))
    (period,) = history.periods()
    assert period.num_paced == 1
    assert period.tpot_within == [int(limit_s >= 0.025) for limit_s in TPOT_LIMITS_S]


def test_refusals_are_faults_and_mistakes_of_callers_are_not(history: History) -> None:
    history.add(refused())
    for outcome in ("INVALID_REQUEST", "CANCELLED", "CONTEXT_LENGTH_EXCEEDED"):
        history.add(msgspec.structs.replace(refused(), outcome=outcome))
    (period,) = history.periods()
    assert (period.num_faults, period.num_answered) == (1, 0)
    assert {"OVERLOADED", "INTERNAL", "UNAVAILABLE"} <= SERVER_FAULTS
    assert {reason.lower() for reason in SERVER_FAULTS} == set(FAULTS_OF_ALERTS.split("|"))


def test_a_caller_over_its_own_limit_is_not_the_servers_fault(history: History) -> None:
    for limit in get_args(Limit):
        history.add(msgspec.structs.replace(refused(), limit=limit))
    (period,) = history.periods()
    assert period.num_faults == len(get_args(Limit)) - len(KEY_LIMITS)
    assert set(LIMITS_OF_ALERTS.split("|")) == KEY_LIMITS, "and alerts leave the same out"


def test_a_prompt_that_waits_on_a_decode_worker_waits_for_decode(history: History, clock: Clock) -> None:
    history.add(record(attempts=[RequestAttempt(1, 8.1, REMOTE)]))
    clock.at_s += PERIOD_S
    history.add(record(attempts=[RequestAttempt(1, 8.1, LOCAL)]))
    remote, local = history.periods()
    assert (remote.for_prefill_ms, remote.for_decode_ms, remote.computing_ms) == (22.0, 12.5, 148.0)
    assert (local.for_prefill_ms, local.for_decode_ms, local.computing_ms) == (0.0, 34.5, 0.0)


def test_links_are_of_the_last_minute(history: History, clock: Clock) -> None:
    history.decided(REMOTE)
    clock.at_s += LINKS_OVER_S
    for decision in (REMOTE, LOCAL, LOCAL):
        history.decided(decision)
    assert history.links() == [LinkTraffic("prefill-1", "decode-0", 1), LinkTraffic(None, "decode-1", 2)]
