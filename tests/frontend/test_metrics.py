from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from engine import errors
from frontend.accounts import Accounts
from frontend.api import ModelStatus, Readiness, ServedModel, Vocabulary, WorkerStatus
from frontend.ledger import SECOND_TOKEN_SEGMENTS, TTFT_SEGMENTS
from frontend.metrics import E2E_BUCKETS, TTFT_BUCKETS, FrontendMetrics
from frontend.request import Chat, Event, Finish, GenerateRequest, Timing, Usage
from frontend.tally import Counts

TIMING = Timing(
    36.0,
    {name: float(ms) for ms, name in enumerate(TTFT_SEGMENTS, 1)},
    6.0,
    {name: float(ms) for ms, name in enumerate(SECOND_TOKEN_SEGMENTS, 1)},
)
USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)
DECODE = WorkerStatus(
    worker_id="decode-0",
    role="decode",
    address="127.0.0.1:50053",
    model="m",
    ready=True,
    num_blocks=10,
    free_blocks=4,
    cached_blocks=1,
    promised_blocks=2,
    leaked_blocks=0,
    block_tokens=16,
    running=3,
    queued=1,
    counts=Counts(preemptions=5, fenced_writes=1),
)
NOTHING = dict.fromkeys(("num_blocks", "free_blocks", "cached_blocks", "promised_blocks", "running", "queued"), 0)
AWAY = replace(DECODE, worker_id="", model="", ready=False, **NOTHING)


@dataclass
class FakeInference:
    """Has a queue and workers and serves nothing."""

    fleet: list[WorkerStatus] = field(default_factory=list)
    active_requests: int = 0
    queued_requests: int = 2
    max_queued_requests: int = 8
    counts: Counts = field(default_factory=Counts)

    def workers(self) -> list[WorkerStatus]:
        return self.fleet

    def models(self) -> list[ServedModel]:
        return [ServedModel(name="m", created=1, max_context=64, vocab_size=100, has_chat_template=True)]

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        raise NotImplementedError

    def tokenize(self, model: str | None, text: str | Chat, *, add_special_tokens: bool | None = None) -> list[int]:
        raise NotImplementedError

    def render(self, model: str | None, chat: Chat) -> str:
        raise NotImplementedError

    def detokenize(self, model: str | None, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        raise NotImplementedError

    def token_bytes(self, model: str | None, token_id: int) -> bytes:
        raise NotImplementedError

    def vocabulary(self, model: str | None) -> Vocabulary:
        raise NotImplementedError

    def tokenizer_config(self, model: str | None) -> Mapping[str, object]:
        raise NotImplementedError

    def model(self, name: str | None) -> ServedModel:
        raise NotImplementedError

    def statuses(self) -> list[ModelStatus]:
        (model,) = self.models()
        return [
            ModelStatus(
                name=model.name,
                aliases=(),
                fallback=(),
                ready=True,
                reason="",
                queued_requests=self.queued_requests,
                max_queued_requests=self.max_queued_requests,
            )
        ]

    @property
    def accounts(self) -> Accounts:
        raise NotImplementedError

    def readiness(self, model: str | None = None) -> Readiness:
        raise NotImplementedError

    async def custody(self) -> list[dict[str, object]]:
        raise NotImplementedError


def scrape(metrics: FrontendMetrics) -> dict[str, float]:
    """Every sample as `name{label=value,...}`."""
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert name not in samples
            samples[name] = sample.value
    return samples


@pytest.fixture
def metrics() -> FrontendMetrics:
    return FrontendMetrics(CollectorRegistry())


def test_an_answer_is_counted_and_measured(metrics: FrontendMetrics) -> None:
    metrics.observe_finished("m", TIMING, USAGE, 0.236, Finish.STOP)
    samples = scrape(metrics)

    assert samples["tandem_requests_total{outcome=ok}"] == 1
    assert samples["tandem_prompt_tokens_total{model=m}"] == 10
    assert samples["tandem_completion_tokens_total{model=m}"] == 5
    assert samples["tandem_cached_tokens_total{model=m}"] == 4
    assert samples["tandem_ttft_seconds_sum{model=m}"] == pytest.approx(0.036)
    assert samples["tandem_ttft_seconds_bucket{le=0.02,model=m}"] == 0
    assert samples["tandem_ttft_seconds_bucket{le=0.04,model=m}"] == 1
    assert samples["tandem_second_token_seconds_sum{model=m}"] == pytest.approx(0.006)
    assert samples["tandem_request_seconds_sum{model=m}"] == pytest.approx(0.236)
    assert samples["tandem_time_per_output_token_seconds_sum{model=m}"] == pytest.approx(0.05)


def test_the_segments_of_the_ledger_add_up_to_what_they_are_parts_of(metrics: FrontendMetrics) -> None:
    for _ in range(3):
        metrics.observe_finished("m", TIMING, USAGE, 1.0, Finish.STOP)
    samples = scrape(metrics)

    for whole, part, names in (
        ("tandem_ttft_seconds", "tandem_ttft_segment_seconds", TTFT_SEGMENTS),
        ("tandem_second_token_seconds", "tandem_second_token_segment_seconds", SECOND_TOKEN_SEGMENTS),
    ):
        sums = [samples[f"{part}_sum{{segment={name}}}"] for name in names]
        assert sum(sums) == pytest.approx(samples[f"{whole}_sum{{model=m}}"])


def test_an_answer_of_one_token_has_no_second_and_no_rate(metrics: FrontendMetrics) -> None:
    metrics.observe_finished("m", Timing(5.0, {"admit": 5.0}), Usage(10, 1, 0), 0.005, Finish.LENGTH)
    samples = scrape(metrics)

    assert samples["tandem_ttft_seconds_count{model=m}"] == 1
    assert samples["tandem_second_token_seconds_count{model=m}"] == 0
    assert samples["tandem_time_per_output_token_seconds_count{model=m}"] == 0


def test_the_vllm_names_say_the_same(metrics: FrontendMetrics) -> None:
    metrics.watch(FakeInference([DECODE]))
    metrics.observe_finished("m", TIMING, USAGE, 0.236, Finish.STOP)
    metrics.observe_finished("m", TIMING, USAGE, 0.236, Finish.LENGTH)
    samples = scrape(metrics)

    engine = "engine=0,model_name=m"
    assert samples[f"vllm:prompt_tokens_total{{{engine}}}"] == 20
    assert samples[f"vllm:generation_tokens_total{{{engine}}}"] == 10
    assert samples["vllm:request_success_total{engine=0,finished_reason=stop,model_name=m}"] == 1
    assert samples["vllm:request_success_total{engine=0,finished_reason=length,model_name=m}"] == 1
    assert samples[f"vllm:time_to_first_token_seconds_count{{{engine}}}"] == 2
    assert samples[f"vllm:e2e_request_latency_seconds_sum{{{engine}}}"] == pytest.approx(0.472)
    assert all(
        f"vllm:time_to_first_token_seconds_bucket{{{engine.replace(',', f',le={b},')}}}" in samples
        for b in TTFT_BUCKETS
    )
    assert all(
        f"vllm:e2e_request_latency_seconds_bucket{{{engine.replace(',', f',le={b},')}}}" in samples for b in E2E_BUCKETS
    )
    assert samples["vllm:num_requests_running{engine=decode-0,model_name=m}"] == 3
    assert samples["vllm:num_requests_waiting{engine=decode-0,model_name=m}"] == 1
    assert samples["vllm:num_requests_waiting{engine=frontend,model_name=m}"] == 2
    assert samples["vllm:kv_cache_usage_perc{engine=decode-0,model_name=m}"] == pytest.approx(0.6)


def test_requests_without_an_answer_are_counted_by_reason(metrics: FrontendMetrics) -> None:
    for kind in errors.CODES:
        metrics.observe_refused(kind.reason)
    metrics.observe_refused("CANCELLED")
    samples = scrape(metrics)

    assert samples["tandem_requests_total{outcome=overloaded}"] == 1
    assert samples["tandem_requests_total{outcome=model_not_found}"] == 1
    assert samples["tandem_requests_total{outcome=cancelled}"] == 1
    assert samples["tandem_requests_total{outcome=ok}"] == 0


def test_routing_and_retries_are_counted(metrics: FrontendMetrics) -> None:
    metrics.observe_routed("remote", 0.0002)
    metrics.observe_routed("remote", 0.0002)
    metrics.observe_retry()
    with metrics.in_flight.track_inprogress():
        samples = scrape(metrics)

    assert samples["tandem_router_decisions_total{choice=remote}"] == 2
    assert samples["tandem_router_decisions_total{choice=local}"] == 0
    assert samples["tandem_router_decision_seconds_sum"] == pytest.approx(0.0004)
    assert samples["tandem_retries_total"] == 1
    assert samples["tandem_requests_in_flight"] == 1


def test_workers_are_asked_at_every_scrape(metrics: FrontendMetrics) -> None:
    inference = FakeInference()
    metrics.watch(inference)
    assert scrape(metrics)["tandem_queued_requests"] == 2

    inference.queued_requests = 0
    inference.fleet = [DECODE]
    samples = scrape(metrics)
    assert samples["tandem_queued_requests"] == 0
    assert samples["tandem_max_queued_requests"] == 8
    assert samples["tandem_worker_ready{role=decode,worker=decode-0}"] == 1
    assert samples["tandem_worker_running{role=decode,worker=decode-0}"] == 3
    assert samples["tandem_worker_queued{role=decode,worker=decode-0}"] == 1
    assert samples["tandem_worker_kv_blocks{role=decode,worker=decode-0}"] == 10
    assert samples["tandem_worker_kv_blocks_free{role=decode,worker=decode-0}"] == 4

    inference.fleet = []
    samples = scrape(metrics)
    assert not [name for name in samples if name.startswith("tandem_worker_")]
    assert samples["tandem_workers_ready"] == samples["tandem_kv_blocks_leaked"] == 0


def test_workers_that_are_away_have_an_address_and_no_usage(metrics: FrontendMetrics) -> None:
    metrics.watch(FakeInference([AWAY, replace(AWAY, address="127.0.0.1:50054")]))
    samples = scrape(metrics)

    assert samples["tandem_worker_ready{role=decode,worker=127.0.0.1:50053}"] == 0
    assert samples["tandem_worker_ready{role=decode,worker=127.0.0.1:50054}"] == 0
    assert samples["vllm:kv_cache_usage_perc{engine=127.0.0.1:50053,model_name=m}"] == 0


def test_every_block_of_every_worker_is_accounted_for(metrics: FrontendMetrics) -> None:
    metrics.watch(FakeInference([DECODE, replace(DECODE, worker_id="decode-1", leaked_blocks=7)]))
    samples = scrape(metrics)

    assert samples["tandem_worker_kv_blocks_promised{role=decode,worker=decode-0}"] == 2
    assert samples["tandem_worker_kv_blocks_cached{role=decode,worker=decode-0}"] == 1
    assert samples["tandem_worker_kv_blocks_leaked{role=decode,worker=decode-0}"] == 0
    assert samples["tandem_worker_kv_blocks_leaked{role=decode,worker=decode-1}"] == 7


def test_what_an_operator_watches_is_there_as_one_number(metrics: FrontendMetrics) -> None:
    metrics.watch(FakeInference([DECODE, replace(DECODE, worker_id="decode-1", leaked_blocks=7), AWAY]))
    samples = scrape(metrics)

    assert samples["tandem_kv_blocks_leaked"] == 7
    assert (samples["tandem_kv_blocks"], samples["tandem_kv_blocks_free"]) == (20, 8)
    assert (samples["tandem_kv_blocks_promised"], samples["tandem_kv_blocks_cached"]) == (4, 2)
    assert (samples["tandem_workers_ready"], samples["tandem_running_sequences"]) == (2, 6)
    assert samples["tandem_queued_sequences"] == 2


def test_what_workers_count_is_there_by_worker_and_over_all_there_ever_were(metrics: FrontendMetrics) -> None:
    other = replace(DECODE, worker_id="decode-1", counts=Counts(preemptions=2))
    inference = FakeInference([DECODE, other], counts=Counts(preemptions=9, fenced_writes=1))
    metrics.watch(inference)
    samples = scrape(metrics)

    assert (samples["tandem_preemptions_total"], samples["tandem_fenced_writes_total"]) == (9, 1)
    assert samples["tandem_worker_preemptions_total{role=decode,worker=decode-0}"] == 5
    assert samples["tandem_worker_fenced_writes_total{role=decode,worker=decode-0}"] == 1
    assert samples["tandem_worker_preemptions_total{role=decode,worker=decode-1}"] == 2
    assert samples["tandem_worker_fenced_writes_total{role=decode,worker=decode-1}"] == 0

    inference.fleet = []
    assert scrape(metrics)["tandem_preemptions_total"] == 9


def test_two_frontends_in_one_process_do_not_share() -> None:
    first, second = FrontendMetrics(CollectorRegistry()), FrontendMetrics(CollectorRegistry())
    first.observe_retry()

    assert (scrape(first)["tandem_retries_total"], scrape(second)["tandem_retries_total"]) == (1, 0)
