"""The frontend's Prometheus metrics: `tandem_*`, and from the same values the `vllm:` names that dashboards know.

A request is observed when it ends, never per token, and labels are bound once per model. What workers say of themselves
is read when somebody scrapes. Does not know who calls or where metrics are served.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from frontend.api import Inference, ModelStatus, WorkerStatus
from frontend.request import Finish, Timing, Usage

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# vLLM's, so that panels of both line up
# fmt: off
TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)
E2E_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)
TPOT_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)
SEGMENT_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)
ROUTE_BUCKETS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0)
# fmt: on


@dataclass(frozen=True, slots=True)
class _WorkerGauge:
    """What every worker says of itself, as two families. A sum under the name of its parts would be counted twice."""

    of_all: str
    """Without labels: the sum over all workers."""
    of_each: str
    """With a worker and its role for labels."""
    text: str
    attribute: str
    """Of a worker's status."""


WORKER_GAUGES = (
    _WorkerGauge("tandem_workers_ready", "tandem_worker_ready", "Workers that take requests.", "ready"),
    _WorkerGauge("tandem_running_sequences", "tandem_worker_running", "Sequences in batches.", "running"),
    _WorkerGauge("tandem_queued_sequences", "tandem_worker_queued", "Sequences that wait for one.", "queued"),
    _WorkerGauge("tandem_kv_blocks", "tandem_worker_kv_blocks", "KV blocks there are.", "num_blocks"),
    _WorkerGauge(
        "tandem_kv_blocks_free",
        "tandem_worker_kv_blocks_free",
        "KV blocks that can be taken, cached ones among them.",
        "free_blocks",
    ),
    _WorkerGauge(
        "tandem_kv_blocks_promised",
        "tandem_worker_kv_blocks_promised",
        "KV blocks reserved for transfers.",
        "promised_blocks",
    ),
    _WorkerGauge(
        "tandem_kv_blocks_cached",
        "tandem_worker_kv_blocks_cached",
        "KV blocks that only the prefix cache holds.",
        "cached_blocks",
    ),
    _WorkerGauge(
        "tandem_kv_blocks_leaked",
        "tandem_worker_kv_blocks_leaked",
        "KV blocks nobody owns and nobody can take, looked for while nobody owns any; must be 0.",
        "leaked_blocks",
    ),
)
WORKER_COUNTERS = (
    ("preemptions", "Sequences that gave up their KV blocks, to be computed again later."),
    ("fenced_writes", "Late writes of KV that were dropped."),
)
"""What every worker counts, by attribute of its counts: `tandem_*_total` over all workers there ever were, so that it
never goes back, and `tandem_worker_*_total` with a worker and its role for labels."""

MODEL_GAUGES = (
    ("ready", "Whether the model has a worker of every role that takes requests."),
    ("queued_requests", "Waiting for a worker of the model."),
    ("max_queued_requests", "More for the model are refused."),
)
"""What is known of every model, by attribute of its status."""


class FrontendMetrics:
    """Everything a frontend counts and measures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._latencies = _Latencies(registry)
        self._tokens = _Tokens(registry)
        self._models: dict[str, _ModelMetrics] = {}
        self._requests = Counter("tandem_requests", "Requests that ended, by outcome.", ["outcome"], registry=registry)
        self._ok = self._requests.labels("ok")
        self.in_flight = Gauge("tandem_requests_in_flight", "Requests under way.", registry=registry)
        routed = Counter("tandem_router_decisions", "Where prompts were prefilled.", ["choice"], registry=registry)
        self._routed = {choice: routed.labels(choice) for choice in ("local", "remote")}
        self._route_seconds = _histogram("tandem_router_decision_seconds", "Choosing workers.", ROUTE_BUCKETS, registry)
        self._retries = Counter("tandem_retries", "Attempts after the first one.", registry=registry)

    def observe_finished(self, model: str, timing: Timing, usage: Usage, e2e_s: float, reason: Finish) -> None:
        """A request got its whole answer. `model` is a served one's name, not the caller's spelling."""
        bound = self._models.get(model)
        if bound is None:
            bound = self._models[model] = _ModelMetrics(model, self._latencies, self._tokens)
        self._ok.inc()
        bound.observe(timing, usage, e2e_s, reason)

    def observe_refused(self, reason: str) -> None:
        """A request ended without its answer: `reason` is `TandemError.reason` or CANCELLED."""
        self._requests.labels(reason.lower()).inc()

    def observe_routed(self, choice: str, seconds: float) -> None:
        """The router decided `local` or `remote`, and took so long over all attempts."""
        self._routed[choice].inc()
        self._route_seconds.observe(seconds)

    def observe_retry(self) -> None:
        self._retries.inc()

    def watch(self, inference: Inference) -> None:
        """Ask `inference` about its queues and its workers at every scrape."""
        self._registry.register(_FleetCollector(inference))

    def exposition(self) -> bytes:
        """All metrics as text of `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _Latencies:
    """Histograms of seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("model",)
        self.ttft = _histogram("tandem_ttft_seconds", "Time to first token.", TTFT_BUCKETS, registry, labels)
        self.second = _histogram(
            "tandem_second_token_seconds", "From the first token to the second.", TTFT_BUCKETS, registry, labels
        )
        self.tpot = _histogram(
            "tandem_time_per_output_token_seconds", "Mean per token after the first.", TPOT_BUCKETS, registry, labels
        )
        self.e2e = _histogram("tandem_request_seconds", "Arrival to last token.", E2E_BUCKETS, registry, labels)
        self.ttft_segment = _histogram(
            "tandem_ttft_segment_seconds", "Parts of the time to first token.", SEGMENT_BUCKETS, registry, ("segment",)
        )
        self.second_segment = _histogram(
            "tandem_second_token_segment_seconds", "Parts of the same.", SEGMENT_BUCKETS, registry, ("segment",)
        )
        vllm = ("model_name", "engine")
        self.vllm_ttft = _histogram(
            "vllm:time_to_first_token_seconds", "Time to first token.", TTFT_BUCKETS, registry, vllm
        )
        self.vllm_e2e = _histogram(
            "vllm:e2e_request_latency_seconds", "Arrival to last token.", E2E_BUCKETS, registry, vllm
        )


class _Tokens:
    """Counters of tokens and of complete answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.prompt = Counter("tandem_prompt_tokens", "Prompt tokens.", ["model"], registry=registry)
        self.completion = Counter("tandem_completion_tokens", "Output tokens.", ["model"], registry=registry)
        self.cached = Counter("tandem_cached_tokens", "Prompt tokens not recomputed.", ["model"], registry=registry)
        vllm = ("model_name", "engine")
        self.vllm_prompt = Counter("vllm:prompt_tokens", "Prompt tokens.", vllm, registry=registry)
        self.vllm_generation = Counter("vllm:generation_tokens", "Output tokens.", vllm, registry=registry)
        self.vllm_success = Counter(
            "vllm:request_success", "Complete answers.", (*vllm, "finished_reason"), registry=registry
        )


class _ModelMetrics:
    """The labels of one model, bound."""

    def __init__(self, model: str, latencies: _Latencies, tokens: _Tokens) -> None:
        engine = (model, "0")
        self._ttft = (latencies.ttft.labels(model), latencies.vllm_ttft.labels(*engine))
        self._e2e = (latencies.e2e.labels(model), latencies.vllm_e2e.labels(*engine))
        self._tpot = latencies.tpot.labels(model)
        self._second = latencies.second.labels(model)
        self._prompt = (tokens.prompt.labels(model), tokens.vllm_prompt.labels(*engine))
        self._completion = (tokens.completion.labels(model), tokens.vllm_generation.labels(*engine))
        self._cached = tokens.cached.labels(model)
        self._success = {reason: tokens.vllm_success.labels(*engine, reason.value) for reason in Finish}
        self._ttft_segments = _Segments(latencies.ttft_segment)
        self._second_segments = _Segments(latencies.second_segment)

    def observe(self, timing: Timing, usage: Usage, e2e_s: float, reason: Finish) -> None:
        ttft_s = timing.ttft_ms / 1e3
        for ttft, e2e in zip(self._ttft, self._e2e, strict=True):
            ttft.observe(ttft_s)
            e2e.observe(e2e_s)
        self._ttft_segments.observe(timing.ttft_segments)
        if timing.second_token_ms is not None:
            self._second.observe(timing.second_token_ms / 1e3)
            self._second_segments.observe(timing.second_token_segments)
        if usage.completion_tokens > 1:
            self._tpot.observe((e2e_s - ttft_s) / (usage.completion_tokens - 1))
        for prompt, completion in zip(self._prompt, self._completion, strict=True):
            prompt.inc(usage.prompt_tokens)
            completion.inc(usage.completion_tokens)
        self._cached.inc(usage.cached_tokens)
        self._success[reason].inc()


class _Segments:
    """Parts of a ledger, each label bound when it is first seen."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._bound: dict[str, Histogram] = {}

    def observe(self, segments: Mapping[str, float]) -> None:
        for name, ms in segments.items():
            bound = self._bound.get(name)
            if bound is None:
                bound = self._bound[name] = self._histogram.labels(name)
            bound.observe(ms / 1e3)


class _FleetCollector(Collector):
    """Asks at each scrape; of workers that are gone, only what they counted is part of a sum."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering asks nobody."""
        return ()

    def collect(self) -> Iterable[Metric]:
        queued, workers = self._inference.queued_requests, self._inference.workers()
        yield GaugeMetricFamily("tandem_queued_requests", "Waiting for a worker.", queued)
        yield GaugeMetricFamily("tandem_max_queued_requests", "More are refused.", self._inference.max_queued_requests)
        models = self._inference.statuses()
        for attribute, text in MODEL_GAUGES:
            by_model = GaugeMetricFamily(f"tandem_model_{attribute}", f"By model. {text}", labels=("model",))
            for model in models:
                by_model.add_metric((model.name,), getattr(model, attribute))
            yield by_model
        for gauge in WORKER_GAUGES:
            values = [getattr(worker, gauge.attribute) for worker in workers]
            each = GaugeMetricFamily(gauge.of_each, f"By worker. {gauge.text}", labels=("worker", "role"))
            for worker, value in zip(workers, values, strict=True):
                each.add_metric((_name(worker), worker.role), value)
            yield GaugeMetricFamily(gauge.of_all, gauge.text, sum(values))
            yield each
        counts = self._inference.counts
        for attribute, text in WORKER_COUNTERS:
            yield CounterMetricFamily(f"tandem_{attribute}", text, getattr(counts, attribute))
            counters = CounterMetricFamily(
                f"tandem_worker_{attribute}", f"By worker. {text}", labels=("worker", "role")
            )
            for worker in workers:
                counters.add_metric((_name(worker), worker.role), getattr(worker.counts, attribute))
            yield counters
        yield from _vllm_gauges(models, workers)


def _vllm_gauges(models: Sequence[ModelStatus], workers: Iterable[WorkerStatus]) -> Iterator[Metric]:
    """A worker is an `engine`; so is a model's queue, where a request waits that no worker has taken yet."""
    labels = ("model_name", "engine")
    running = GaugeMetricFamily("vllm:num_requests_running", "Requests in batches.", labels=labels)
    waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Requests that wait.", labels=labels)
    usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", labels=labels)
    for model in models:
        waiting.add_metric((model.name, "frontend"), model.queued_requests)
    default_model = models[0].name
    for worker in workers:
        engine = (worker.model or default_model, _name(worker))
        running.add_metric(engine, worker.running)
        waiting.add_metric(engine, worker.queued)
        usage.add_metric(engine, 1 - worker.free_blocks / worker.num_blocks if worker.num_blocks else 0.0)
    yield from (running, waiting, usage)


def _name(worker: WorkerStatus) -> str:
    """A worker that is away has no id; two samples with the same labels would fail the scrape."""
    return worker.worker_id or worker.address


def _histogram(
    name: str, text: str, buckets: Sequence[float], registry: CollectorRegistry, labels: Sequence[str] = ()
) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=registry)
