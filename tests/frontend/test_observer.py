"""What is noted of requests as they go along, whatever becomes of them."""

import asyncio
import logging

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from engine.cost import Costs
from engine.errors import InvalidRequest, Overloaded, TandemError, Unavailable
from engine.telemetry import LOG_FIELDS, Telemetry
from frontend.callers import Caller
from frontend.events import Finish, Finished, Usage
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.leg_events import Row
from frontend.metrics import FrontendMetrics
from frontend.notes import Notes
from frontend.observer import Observer, Watched
from frontend.pulse import Pulse
from frontend.records import MAX_ATTEMPTS, MAX_MESSAGE_CHARS, RequestRecord
from frontend.request import GenerateRequest
from frontend.router import Placement, Why
from protos import worker_pb2 as pb
from tests.frontend.fake_worker import FakeWorker
from tests.frontend.scene import job as job_of

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MS = 1_000_000
SECRET = "the prompt that nobody shall read"


@pytest.fixture
def observer() -> Observer:
    return Observer(Telemetry(), FrontendMetrics(CollectorRegistry()))


def request(**fields: object) -> GenerateRequest:
    given: dict[str, object] = {"caller": Caller(name="alice"), "trace_headers": {"traceparent": TRACEPARENT}}
    return GenerateRequest(prompt=SECRET, **{**given, **fields})  # type: ignore[arg-type]


def placement(*, remote: bool = True) -> Placement:
    pulse = Pulse()
    decode, prefill = FakeWorker(pb.ROLE_DECODE, pulse).link.view, FakeWorker(pb.ROLE_PREFILL, pulse).link.view
    assert decode is not None
    return Placement(decode, prefill if remote else None, 4, Why.ESTIMATE, 0.2, 0.1, 0.03, 0.0)


def tokenized(watched: Watched, ledger: Ledger) -> Job:
    """The request is a job now, of 9 tokens."""
    made = job_of(name=watched.request_id)
    made.ledger = ledger
    ledger.checked_ns = ledger.arrived_ns + 1 * MS
    ledger.tokenized_ns = ledger.arrived_ns + 3 * MS
    watched.tokenized(made)
    return made


def granted(watched: Watched, job: Job, *, remote: bool = True) -> None:
    job.attempt += 1
    job.placement = placement(remote=remote)
    job.ledger.route_ns = MS
    job.ledger.granted_ns = job.ledger.arrived_ns + 6 * MS
    watched.placed(job)


def answered(watched: Watched, job: Job, num_tokens: int = 2, ttft_ms: int = 20) -> None:
    ledger = job.ledger
    ledger.queue_ns, ledger.compute_ns = 4 * MS, 9 * MS
    ledger.first_token_ns = ledger.arrived_ns + ttft_ms * MS
    ledger.second_token_ns = ledger.first_token_ns + 5 * MS
    job.tokens += [1] * num_tokens
    watched.finished(Finished(Finish.LENGTH, None, Usage(job.num_prompt, num_tokens, 4), ledger.timing()))


def recorded(observer: Observer) -> RequestRecord:
    (raw,) = observer.recorder.recent(Caller(), 10)
    assert SECRET.encode() not in bytes(raw)
    return msgspec.json.decode(raw, type=RequestRecord)


def test_an_answer(observer: Observer) -> None:
    ledger = Ledger()
    with observer.watch(request(request_id="req-1"), "m", ledger) as watched:
        assert observer.recorder.in_flight == 1
        job = tokenized(watched, ledger)
        granted(watched, job)
        answered(watched, job)
    record = recorded(observer)
    assert observer.recorder.in_flight == 0
    assert (record.request_id, record.key, record.model) == ("req-1", "alice", "m")
    assert record.trace_id == TRACEPARENT.split("-")[1]
    assert (record.outcome, record.failed, record.error) == ("length", False, "")
    assert (record.prompt_tokens, record.output_tokens) == (9, 2)
    assert record.ttft_ms == 20
    assert record.ttft_segments == {
        "admit": 1,
        "tokenize": 2,
        "route": 1,
        "grant": 2,
        "prefill_queue": 4,
        "prefill_compute": 9,
        "transfer_wait": 0,
        "egress": 1,
    }
    assert record.second_token_ms == sum(record.second_token_segments.values()) == 5
    (attempt,) = record.attempts
    assert attempt.decision is not None
    assert (attempt.decision.choice, attempt.decision.prefill, attempt.decision.decode) == (
        "remote",
        "prefill",
        "decode",
    )
    assert (attempt.decision.local_ms, attempt.decision.remote_ms) == (200.0, 100.0)
    assert (attempt.decision.local_loss_ms, attempt.decision.remote_loss_ms) == (30.0, 0.0)
    assert attempt.decision.why == "by the estimates"
    (decision,) = observer.recorder.decisions(Caller(name="alice"), 10)
    assert (decision.request_id, decision.decision) == ("req-1", attempt.decision)
    assert observer.recorder.decisions(Caller(name="bob"), 10) == []


def test_attempts_that_failed_are_told_with_their_workers(observer: Observer) -> None:
    ledger = Ledger()
    with observer.watch(request(), "m", ledger) as watched:
        job = tokenized(watched, ledger)
        granted(watched, job)
        watched.retried(job, "worker prefill went away")
        job.attempt += 1
        watched.retried(job, "x" * 1000)  # before workers had taken it
        granted(watched, job, remote=False)
        answered(watched, job)
    record = recorded(observer)
    assert record.num_attempts == 3
    first, second, third = record.attempts
    assert first.failed == "worker prefill went away"
    assert first.decision is not None
    assert (second.decision, second.failed) == (None, "x" * MAX_MESSAGE_CHARS)
    assert third.decision is not None
    assert (third.decision.choice, third.decision.prefill, third.failed) == ("local", None, "")


def test_however_many_attempts_a_record_is_bounded(observer: Observer) -> None:
    ledger = Ledger()
    with observer.watch(request(), "m", ledger) as watched:
        job = tokenized(watched, ledger)
        for _ in range(100):
            granted(watched, job)
            watched.retried(job, "lost" * 1000)
        answered(watched, job)
    record = recorded(observer)
    assert record.num_attempts == 100
    assert [attempt.number for attempt in record.attempts] == [1, *range(102 - MAX_ATTEMPTS, 101)]
    assert len(msgspec.json.encode(record)) < 8_000


REFUSALS: list[tuple[TandemError, str]] = [
    (Overloaded("100 requests are waiting", retry_after_s=1), "100 requests are waiting"),
    (Unavailable("2 attempts failed"), "2 attempts failed"),
    (InvalidRequest(f"the template says: {SECRET}", field="messages"), "the field messages"),
    (InvalidRequest(SECRET), ""),
]


@pytest.mark.parametrize(("error", "told"), REFUSALS)
def test_a_refusal_is_told_without_words_of_the_client(observer: Observer, error: TandemError, told: str) -> None:
    with pytest.raises(type(error)), observer.watch(request(), "m", Ledger()):
        raise error
    record = recorded(observer)
    assert (record.outcome, record.failed, record.error) == (error.reason, True, told)
    assert record.ttft_ms is None
    assert list(record.ttft_segments) == ["admit"]
    assert record.attempts == []


@pytest.mark.parametrize("had_token", [False, True])
def test_a_client_that_leaves_before_its_first_token_has_perhaps_waited_too_long(
    observer: Observer, had_token: bool
) -> None:
    with pytest.raises(asyncio.CancelledError):
        leave(observer, had_token=had_token)
    record = recorded(observer)
    assert (record.outcome, record.failed) == ("CANCELLED", not had_token)
    assert (record.ttft_ms is None) == (not had_token)
    assert len(observer.recorder.failed(Caller(), 10)) == (not had_token)


def leave(observer: Observer, *, had_token: bool) -> None:
    """Be cancelled once workers have the request."""
    ledger = Ledger()
    with observer.watch(request(), "m", ledger) as watched:
        job = tokenized(watched, ledger)
        granted(watched, job)
        if had_token:
            ledger.first_token_ns = ledger.granted_ns + MS
            job.tokens.append(1)
        raise asyncio.CancelledError


STAGES = ("checked_ns", "tokenized_ns", "granted_ns", "first_token_ns", "second_token_ns")


@given(st.lists(st.integers(0, 10**10), max_size=5), st.integers(0, 10**9), st.integers(0, 10**12), st.data())
def test_segments_add_up_wherever_a_request_ends(stages: list[int], last: int, work: int, data: st.DataObject) -> None:
    ledger = Ledger(arrived_ns=1)
    now = 1
    for name, length in zip(STAGES, stages, strict=False):
        now += length
        setattr(ledger, name, now)
    if len(stages) > 2:
        ledger.route_ns = data.draw(st.integers(0, ledger.granted_ns - ledger.tokenized_ns))
        ledger.queue_ns, ledger.compute_ns = data.draw(st.integers(0, work)), data.draw(st.integers(0, work))
    notes = Notes(request_id="r", traceparent="", key="", model="m", operation="chat", ledger=ledger)
    notes._ended_ns = now + last
    record = notes.record("UNAVAILABLE", "")
    total = record.e2e_ms if record.ttft_ms is None else record.ttft_ms
    assert sum(record.ttft_segments.values()) == pytest.approx(total, abs=0.01)
    assert all(ms >= 0 for ms in record.ttft_segments.values())
    assert sum(record.second_token_segments.values()) == pytest.approx(record.second_token_ms or 0.0, abs=0.01)


def test_the_line_of_a_request_has_its_ledger(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    with caplog.at_level(logging.INFO), observer.watch(request(), "m", ledger) as watched:
        job = tokenized(watched, ledger)
        granted(watched, job)
        answered(watched, job)
    (line,) = [line for line in caplog.records if line.name == "frontend.observer"]
    fields = getattr(line, LOG_FIELDS)
    assert fields["outcome"] == "length"
    assert fields["ttft_ms"] == sum(fields["ttft_segments"].values()) == 20
    assert "error" not in fields
    assert SECRET not in str(fields)


def test_a_level_that_shows_no_such_line_costs_none(observer: Observer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(Unavailable), observer.watch(request(), "m", Ledger()):
        raise Unavailable("gone")
    assert caplog.records == []


def value(observer: Observer, name: str) -> float:
    samples = (
        sample
        for family in text_string_to_metric_families(observer._metrics.exposition().decode())
        for sample in family.samples
    )
    return next(sample.value for sample in samples if f"{sample.name}{sorted(sample.labels.items())}" == name)


def test_a_refusal_is_counted_by_the_limit_that_it_met(observer: Observer) -> None:
    with pytest.raises(Overloaded), observer.watch(request(), "m", Ledger()):
        raise Overloaded("late", retry_after_s=1, limit="ttft_slo")
    assert value(observer, "tandem_refusals_total[('limit', 'ttft_slo')]") == 1
    (raw,) = observer.recorder.failed(Caller(), 10)
    assert msgspec.json.decode(raw, type=RequestRecord).limit == "ttft_slo"


@pytest.mark.parametrize(("num_output", "migrations"), [(0, 0), (3, 1)])
def test_an_answer_that_goes_on_elsewhere_has_migrated(observer: Observer, num_output: int, migrations: int) -> None:
    ledger = Ledger()
    with observer.watch(request(), "m", ledger) as watched:
        job = tokenized(watched, ledger)
        granted(watched, job)
        watched.placed(job)  # the room was kept, another prefill worker fills it
        job.tokens += [1] * num_output
        watched.retried(job, "worker decode went away")
        granted(watched, job)  # by another start of the worker
        answered(watched, job)
    assert value(observer, "tandem_migrations_total[]") == migrations


def test_the_first_token_judges_the_decision(observer: Observer) -> None:
    ledger = Ledger()
    with observer.watch(request(), "m", ledger) as watched:
        job = tokenized(watched, ledger)
        job.attempt, made = 1, placement()
        made.decode.costs = Costs.flat(1000.0)
        job.place(made)
        job.ledger.granted_ns = job.placed_ns
        watched.took([Row(0, 7, pb.FINISH_REASON_UNSPECIFIED, None, 0, 0, heard_ns=job.placed_ns)])
        answered(watched, job)
    assert value(observer, "tandem_router_prediction_ratio_count[('choice', 'remote')]") == 1
    assert value(observer, "tandem_router_prediction_ratio_count[('choice', 'local')]") == 0
