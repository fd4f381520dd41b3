"""Whose traces are kept, and that they can be found."""

import pytest
from prometheus_client import CollectorRegistry

from engine.errors import InvalidRequest, Unavailable
from engine.telemetry import Telemetry
from frontend import keeper as keeper_module
from frontend.keeper import KEPT_PER_MINUTE, Keeper
from frontend.ledger import Ledger
from frontend.metrics import FrontendMetrics
from frontend.observer import Observer
from tests.engine.test_telemetry import traced
from tests.frontend.test_observer import answered, granted, recorded, request, tokenized

UNSAMPLED = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}
TRACE = bytes.fromhex(UNSAMPLED["traceparent"].split("-")[1])


def answer(observer: Observer, *, ttft_ms: int = 20, attempts: int = 1, error: Exception | None = None) -> None:
    """Have one request answered, or fail."""
    ledger = Ledger()
    with observer.watch(request(trace_headers=UNSAMPLED), "m", ledger) as watched:
        job = tokenized(watched, ledger)
        for number in range(attempts):
            if number:
                watched.retried(job, "worker gone")
            granted(watched, job)
        if error is not None:
            raise error
        answered(watched, job, ttft_ms=ttft_ms)


def observed(tracing: Telemetry, told: list[bytes], slow_ttft_s: float = 1.0) -> Observer:
    return Observer(tracing, FrontendMetrics(CollectorRegistry()), Keeper(tracing, told.append, slow_ttft_s))


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ({}, False),
        ({"ttft_ms": 999}, False),
        ({"ttft_ms": 1001}, True),
        ({"attempts": 2}, True),
        ({"error": Unavailable("no worker")}, True),
    ],
)
def test_slow_and_failed_requests_are_kept(how: dict[str, object], kept: bool) -> None:
    told: list[bytes] = []
    with traced() as (tracing, spans):
        observer = observed(tracing, told)
        try:
            answer(observer, **how)  # type: ignore[arg-type]
        except Unavailable:
            assert how["error"]
        tracing.shutdown()

    assert told == ([TRACE] if kept else [])
    assert {each.name for each in spans.received} == ({"text_completion m", "admission"} if kept else set())
    record = recorded(observer)
    assert record.traced is kept
    assert record.trace_id == TRACE.hex()


def test_what_the_client_did_wrong_is_a_failure_too() -> None:
    told: list[bytes] = []
    with traced() as (tracing, _):
        observer = observed(tracing, told)
        with pytest.raises(InvalidRequest), observer.watch(request(trace_headers=UNSAMPLED), "m", Ledger()):
            raise InvalidRequest("no")
    assert told == [TRACE]


def test_nothing_is_slow_if_nobody_says_what_is() -> None:
    told: list[bytes] = []
    with traced() as (tracing, _):
        answer(observed(tracing, told, slow_ttft_s=0.0), ttft_ms=60_000)
    assert told == []


def test_so_many_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    told: list[bytes] = []
    keeper = Keeper(Telemetry(), told.append, _left=keeper_module.Bucket(KEPT_PER_MINUTE, lambda: now[0]))
    kept = [keeper.keep("ab" * 16) for _ in range(KEPT_PER_MINUTE + 5)]
    assert kept == [True] * KEPT_PER_MINUTE + [False] * 5
    now[0] += 1.0
    assert [keeper.keep("ab" * 16), keeper.keep("ab" * 16)] == [True, False]
    assert len(told) == KEPT_PER_MINUTE + 1


def test_what_is_sampled_needs_no_keeping() -> None:
    told: list[bytes] = []
    with traced() as (tracing, _):
        observer = observed(tracing, told)
        with pytest.raises(Unavailable), observer.watch(request(), "m", Ledger()):
            raise Unavailable("no worker")
    assert told == []
    assert recorded(observer).traced


def test_without_tracing_nobody_is_told() -> None:
    told: list[bytes] = []
    observer = observed(Telemetry(), told)
    with pytest.raises(Unavailable), observer.watch(request(trace_headers=UNSAMPLED), "m", Ledger()):
        raise Unavailable("no worker")
    assert told == []
    assert not recorded(observer).traced
