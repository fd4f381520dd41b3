import shutil
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from engine import errors
from engine.histogram import Buckets, Steps
from frontend.accounts import Accounts
from frontend.api import KvLinkStatus, ModelStatus, Readiness, ServedModel, Vocabulary, WorkerStatus
from frontend.buckets import E2E_BUCKETS, TTFT_BUCKETS, VLLM_ITL_BUCKETS
from frontend.callers import ANYBODY, Caller
from frontend.events import Event, Finish, Timing, Usage
from frontend.gaps import EDGES, Pool
from frontend.ledger import SECOND_TOKEN_SEGMENTS, TTFT_SEGMENTS
from frontend.metrics import FrontendMetrics
from frontend.regret import Judged
from frontend.request import Chat, GenerateRequest
from frontend.tally import Counts

TIMING = Timing(
    45.0,
    {name: float(ms) for ms, name in enumerate(TTFT_SEGMENTS, 1)},
    15.0,
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
    queued_tokens=70,
    steps=Steps(Buckets((0, 2, 1), 0.0007), Buckets((1, 2), 5.0), Buckets((0, 0, 3), 11.0)),
    clock_ahead_s=-0.25,
    clock_within_s=0.002,
    counts=Counts(preemptions=5, fenced_writes=1),
)
PREFILL = replace(
    DECODE,
    worker_id="prefill-0",
    role="prefill",
    links=(
        KvLinkStatus(
            decode="decode-0",
            transport="shm",
            size_bytes=1000,
            transfers=3,
            failures={"refused": 2, "stalled": 1, "lost": 3},
            bytes_per_s=2e9,
            in_flight=1,
            in_flight_bytes=64,
        ),
    ),
)
NOTHING = dict.fromkeys(("num_blocks", "free_blocks", "cached_blocks", "promised_blocks", "running", "queued"), 0)
AWAY = replace(DECODE, worker_id="", model="", ready=False, clock_ahead_s=None, clock_within_s=None, **NOTHING)


@dataclass
class FakeInference:
    """Has a queue and workers and serves nothing."""

    fleet: list[WorkerStatus] = field(default_factory=list)
    active_requests: int = 0
    queued_requests: int = 2
    queued_tokens: int = 90
    max_queued_requests: int = 8
    counts: Counts = field(default_factory=Counts)

    def workers(self) -> list[WorkerStatus]:
        return self.fleet

    def models(self, caller: Caller = ANYBODY) -> list[ServedModel]:
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

    def model(self, name: str | None, caller: Caller = ANYBODY) -> ServedModel:
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
    assert samples["tandem_ttft_seconds_sum{model=m}"] == pytest.approx(0.045)
    assert samples["tandem_ttft_seconds_bucket{le=0.04,model=m}"] == 0
    assert samples["tandem_ttft_seconds_bucket{le=0.06,model=m}"] == 1
    assert samples["tandem_second_token_seconds_sum{model=m}"] == pytest.approx(0.015)
    assert samples["tandem_request_seconds_sum{model=m}"] == pytest.approx(0.236)
    assert samples["tandem_time_per_output_token_seconds_sum{model=m}"] == pytest.approx(0.191 / 4)


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


def test_gaps_between_tokens_are_pooled_and_vllms_buckets_are_ours_from_its_first_on(metrics: FrontendMetrics) -> None:
    pool = Pool([1] * (len(EDGES) + 1), 10**9)
    metrics.observe_gaps("m", pool)
    metrics.observe_gaps("m", pool)
    samples = scrape(metrics)

    assert samples["tandem_inter_token_seconds_bucket{le=0.001,model=m}"] == 2
    assert samples["tandem_inter_token_seconds_bucket{le=+Inf,model=m}"] == 2 * (len(EDGES) + 1)
    assert samples["tandem_inter_token_seconds_sum{model=m}"] == 2
    for edge in VLLM_ITL_BUCKETS:
        theirs = samples[f"vllm:inter_token_latency_seconds_bucket{{engine=0,le={edge},model_name=m}}"]
        assert theirs == samples[f"tandem_inter_token_seconds_bucket{{le={edge},model=m}}"]
    assert samples["vllm:inter_token_latency_seconds_count{engine=0,model_name=m}"] == 2 * (len(EDGES) + 1)


def test_steps_of_workers_by_buckets_that_double(metrics: FrontendMetrics) -> None:
    metrics.watch(FakeInference([DECODE, AWAY]))
    samples = scrape(metrics)

    worker = "role=decode,worker=decode-0"
    assert [
        samples[f"tandem_worker_step_seconds_bucket{{le={le},{worker}}}"] for le in (0.0001, 0.0002, 0.0004, 0.0008)
    ] == [0, 2, 3, 3]
    assert samples[f"tandem_worker_step_sequences_bucket{{le=1.0,{worker}}}"] == 1
    assert samples[f"tandem_worker_step_sequences_count{{{worker}}}"] == 3
    assert samples[f"tandem_worker_step_tokens_sum{{{worker}}}"] == 11
    assert samples["vllm:iteration_tokens_total_bucket{engine=decode-0,le=4.0,model_name=m}"] == 3
    assert not [name for name in samples if "step_" in name and "127.0.0.1" in name], "one that is away steps nothing"


def test_each_link_with_what_it_carried_and_why_it_failed(metrics: FrontendMetrics) -> None:
    metrics.watch(FakeInference([DECODE, PREFILL]))
    samples = scrape(metrics)

    link = "decode=decode-0,prefill=prefill-0"
    assert samples[f"tandem_link_bytes_total{{{link},transport=shm}}"] == 1000
    assert samples[f"tandem_link_transfers_total{{{link},transport=shm}}"] == 3
    assert samples[f"tandem_link_failures_total{{{link},reason=refused,transport=shm}}"] == 2
    assert samples[f"tandem_link_failures_total{{{link},reason=stalled,transport=shm}}"] == 1
    assert samples[f"tandem_link_failures_total{{{link},reason=unreachable,transport=shm}}"] == 0
    assert samples[f"tandem_link_bytes_per_second{{{link},transport=shm}}"] == 2e9
    assert samples[f"tandem_link_in_flight{{{link},transport=shm}}"] == 1
    assert samples[f"tandem_link_in_flight_bytes{{{link},transport=shm}}"] == 64


def test_queues_are_told_in_tokens_too_and_clocks_where_they_are_known(metrics: FrontendMetrics) -> None:
    metrics.watch(FakeInference([DECODE, AWAY]))
    samples = scrape(metrics)

    assert samples["tandem_queued_prompt_tokens"] == 90
    assert samples["tandem_worker_waiting_prompt_tokens{role=decode,worker=decode-0}"] == 70
    assert samples["tandem_worker_clock_ahead_seconds{role=decode,worker=decode-0}"] == -0.25
    assert samples["tandem_worker_clock_within_seconds{role=decode,worker=decode-0}"] == 0.002
    assert sum(name.startswith("tandem_worker_clock") for name in samples) == 2, "of the one that is away nothing is"


def test_refusals_by_the_limit_that_was_met(metrics: FrontendMetrics) -> None:
    metrics.observe_refused("OVERLOADED", limit="key_tokens")
    metrics.observe_refused("OVERLOADED", limit="queue")
    metrics.observe_refused("UNAVAILABLE")
    samples = scrape(metrics)

    assert samples["tandem_requests_total{outcome=overloaded}"] == 2
    assert samples["tandem_refusals_total{limit=key_tokens}"] == samples["tandem_refusals_total{limit=queue}"] == 1
    assert sum(samples[name] for name in samples if name.startswith("tandem_refusals_total")) == 2


def test_decisions_are_judged_and_migrations_counted(metrics: FrontendMetrics) -> None:
    metrics.observe_judged(Judged("local", 1.5, 0.25))
    metrics.observe_migration()
    samples = scrape(metrics)

    assert samples["tandem_router_regret_seconds_sum{choice=local}"] == 0.25
    assert samples["tandem_router_regret_seconds_count{choice=remote}"] == 0
    assert samples["tandem_router_prediction_ratio_bucket{choice=local,le=1.25}"] == 0
    assert samples["tandem_router_prediction_ratio_bucket{choice=local,le=1.5}"] == 1
    assert samples["tandem_migrations_total"] == 1


# What vLLM's own Grafana dashboard, autoscalers and endpoint pickers ask for.
VLLM_READ = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "cache_config_info",
    "e2e_request_latency_seconds",
    "prompt_tokens",
    "generation_tokens",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_params_max_tokens",
    "request_success",
    "time_to_first_token_seconds",
    "num_preemptions",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "iteration_tokens_total",
)


def test_what_stock_dashboards_and_pickers_read_is_there(metrics: FrontendMetrics) -> None:
    metrics.watch(FakeInference([DECODE]))
    metrics.observe_finished("m", TIMING, USAGE, 0.245, Finish.STOP, max_tokens=30)
    metrics.observe_gaps("m", Pool())
    families = {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}
    for name in VLLM_READ:
        assert families[f"vllm:{name}"].samples, name
        assert all({"model_name", "engine"} <= sample.labels.keys() for sample in families[f"vllm:{name}"].samples)
    samples = scrape(metrics)
    engine = "engine=0,model_name=m"
    assert samples[f"vllm:request_queue_time_seconds_sum{{{engine}}}"] == pytest.approx((4 + 5 + 6) / 1e3)
    assert samples[f"vllm:request_prefill_time_seconds_sum{{{engine}}}"] == pytest.approx(7 / 1e3)
    assert samples[f"vllm:request_decode_time_seconds_sum{{{engine}}}"] == pytest.approx(0.2)
    assert samples[f"vllm:request_inference_time_seconds_sum{{{engine}}}"] == pytest.approx(0.23)
    assert samples[f"vllm:request_params_max_tokens_sum{{{engine}}}"] == 30
    assert samples[f"vllm:prefix_cache_hits_total{{{engine}}}"] == 4
    config = "block_size=16,engine=decode-0,model_name=m,num_gpu_blocks=10"
    assert samples[f"vllm:cache_config_info{{{config}}}"] == 1
    assert samples["vllm:num_preemptions_total{engine=decode-0,model_name=m}"] == 5


def test_who_asks_for_openmetrics_gets_traces_too(metrics: FrontendMetrics) -> None:
    metrics.watch(FakeInference([DECODE, PREFILL]))
    trace = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    metrics.observe_finished("m", TIMING, USAGE, 0.236, Finish.STOP, exemplar=trace)
    metrics.observe_refused("UNAVAILABLE", exemplar=trace)
    metrics.observe_judged(Judged("remote", 1.0, 0.0), trace)
    metrics.observe_gaps("m", Pool())
    told = metrics.openmetrics().decode()
    found = {
        family.name
        for family in openmetrics.text_string_to_metric_families(told)  # strict: it raises for what is not OpenMetrics
        for sample in family.samples
        if sample.exemplar is not None and sample.exemplar.labels == trace
    }
    assert found == {
        "tandem_ttft_seconds",
        "tandem_request_seconds",
        "tandem_second_token_seconds",
        "tandem_time_per_output_token_seconds",
        "tandem_client_wait_seconds",
        "tandem_requests",
        "tandem_router_regret_seconds",
    }
    assert "4bf92f" not in metrics.exposition().decode()


def test_promtool_finds_nothing_but_the_colon_of_vllms_names(metrics: FrontendMetrics) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    metrics.watch(FakeInference([DECODE, PREFILL]))
    metrics.observe_finished("m", TIMING, USAGE, 0.236, Finish.STOP, max_tokens=5)
    metrics.observe_refused("OVERLOADED", limit="queue")
    metrics.observe_gaps("m", Pool())
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.exposition(), capture_output=True, check=False, timeout=60
    )
    lines = (checked.stdout + checked.stderr).decode().splitlines()
    assert not [line for line in lines if not line.startswith("vllm:")]
