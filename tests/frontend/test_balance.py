"""Which side binds: the verdict on loads that are made so that one side does."""

import pytest

from frontend.balance import CLEAR, NEGLIGIBLE, OVER_S, Verdict, balance, recent
from frontend.history import PERIOD_S, Period
from tests.statuses import worker

WORKERS = [worker("prefill-0"), worker("decode-0"), worker("decode-1", running=6)]


def period(**changes: float) -> Period:
    """Ten requests of 100 ms, spent on computing."""
    made = Period(at_s=0, num_answered=10, ttft_ms=1000.0, ttft_segments={"admit": 50.0, "prefill_compute": 950.0})
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("prefill_ms", "decode_ms", "verdict"),
    [
        (0.0, 0.0, Verdict.NEITHER),
        (1000.0 * NEGLIGIBLE - 1, 0.0, Verdict.NEITHER),
        (1000.0 * NEGLIGIBLE + 1, 0.0, Verdict.PREFILL),
        (0.0, 500.0, Verdict.DECODE),
        (0.0, 5000.0, Verdict.DECODE),
        (300.0, 300.0, Verdict.BOTH),
        (600.0 * CLEAR + 1, 600.0 * (1 - CLEAR), Verdict.PREFILL),
        (600.0 * (1 - CLEAR), 600.0 * CLEAR + 1, Verdict.DECODE),
    ],
)
def test_the_side_that_is_waited_for_binds(prefill_ms: float, decode_ms: float, verdict: Verdict) -> None:
    found = balance([period(for_prefill_ms=prefill_ms, for_decode_ms=decode_ms)], WORKERS)
    assert found.verdict is verdict
    assert found.why
    assert found.advice
    assert (found.num_prefill, found.num_decode, found.num_requests) == (1, 2, 10)
    assert (found.for_prefill_ms, found.for_decode_ms) == (
        pytest.approx(prefill_ms / 10),
        pytest.approx(decode_ms / 10),
    )


def test_advice_says_which_worker_to_add() -> None:
    assert "--prefill" in balance([period(for_prefill_ms=900.0)], WORKERS).advice[0]
    full = [worker("prefill-0"), worker("decode-0", free_blocks=0)]
    assert "--decode" in balance([period(for_decode_ms=900.0)], full).advice[0]
    assert "steps" in balance([period(for_decode_ms=900.0)], WORKERS).advice[0]
    (neither,) = balance([period()], WORKERS).advice
    assert "prefill_compute" in neither


def test_without_requests_nothing_is_said() -> None:
    found = balance([], WORKERS)
    assert (found.verdict, found.ttft_ms, found.advice) == (Verdict.IDLE, None, [])
    assert found.loads


def test_a_unified_server_has_no_prefill_side() -> None:
    found = balance([period(for_decode_ms=900.0)], [worker("decode-0")])
    assert (found.verdict, found.num_prefill) == (Verdict.DECODE, 0)
    assert "compute the prompts, too" in found.why
    assert {load.role for load in found.loads} == {"decode"}


def test_one_more_worker_shares_what_there_is() -> None:
    loads = {load.what: load for load in balance([period(computing_ms=600e3)], WORKERS).loads}
    computed = loads["prompts being computed, per worker"]
    assert (computed.now, computed.with_one_more) == (600 / OVER_S, 300 / OVER_S)
    streams = loads["streams now, per worker"]
    assert (streams.now, streams.with_one_more) == (9.0, 6.0)
    batch = loads["batch in use"]
    assert (batch.now, batch.with_one_more) == (pytest.approx(18 / 128, abs=1e-4), pytest.approx(12 / 128, abs=1e-4))


def test_workers_that_are_away_count_for_nothing() -> None:
    found = balance([period()], [*WORKERS, worker("prefill-1", ready=False)])
    assert found.num_prefill == 1
    assert balance([period()], []).loads == []


def test_only_the_last_minutes_count() -> None:
    old, edge, new = (Period(at_s=at_s) for at_s in (0, 1000 - OVER_S - PERIOD_S + 1, 990))
    assert recent([old, edge, new], 1000.0) == [edge, new]
