"""The `vllm:` names that stock dashboards, autoscalers and endpoint pickers read, from the same values as ours.

A request's are of engine 0, the frontend; a worker is an engine of its own, by its name. Where vLLM's words mean
something else here: `queue` is the ledger's `grant`, `retry` and `prefill_queue`; `prefill` its `prefill_compute`;
`inference` everything after `queue`. There are no LoRA adapters, no speculation and no sleeping engines to tell of.
"""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from frontend.api import ModelStatus, WorkerStatus
from frontend.buckets import E2E_BUCKETS, TOKEN_BUCKETS, TPOT_BUCKETS, TTFT_BUCKETS, VLLM_ITL_BUCKETS, cumulative
from frontend.events import Finish, Timing, Usage
from frontend.gaps import Pool
from frontend.step_metrics import doubling

LABELS = ("model_name", "engine")
FRONTEND_ENGINE = "0"
_NUM_FINER = len(TPOT_BUCKETS) - len(VLLM_ITL_BUCKETS)
"""Buckets below vLLM's first one."""
_WAITING = ("grant", "retry", "prefill_queue")

_SECONDS = {
    "time_to_first_token_seconds": ("Time to first token.", TTFT_BUCKETS),
    "e2e_request_latency_seconds": ("Arrival to last token.", E2E_BUCKETS),
    "request_queue_time_seconds": ("Waiting for workers.", E2E_BUCKETS),
    "request_prefill_time_seconds": ("Computing the prompt.", E2E_BUCKETS),
    "request_decode_time_seconds": ("First token to last.", E2E_BUCKETS),
    "request_inference_time_seconds": ("From the end of waiting to the last token.", E2E_BUCKETS),
    "request_time_per_output_token_seconds": ("Mean per token after the first.", VLLM_ITL_BUCKETS),
}
_TOKENS = {
    "request_prompt_tokens": "Prompt tokens of a request.",
    "request_generation_tokens": "Output tokens of a request.",
    "request_max_num_generation_tokens": "Output tokens of a request: each answer is one of its own.",
    "request_params_max_tokens": "Output tokens that a request allowed.",
}
_COUNTERS = {
    "prompt_tokens": "Prompt tokens.",
    "generation_tokens": "Output tokens.",
    "prefix_cache_queries": "Prompt tokens that were looked for in the prefix cache.",
    "prefix_cache_hits": "Prompt tokens that the prefix cache had.",
}


class VllmMetrics:
    """What a request brings."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = {
            name: Histogram(f"vllm:{name}", text, LABELS, buckets=buckets, registry=registry)
            for name, (text, buckets) in _SECONDS.items()
        }
        self.tokens = {
            name: Histogram(f"vllm:{name}", text, LABELS, buckets=TOKEN_BUCKETS, registry=registry)
            for name, text in _TOKENS.items()
        }
        self.counters = {
            name: Counter(f"vllm:{name}", text, LABELS, registry=registry) for name, text in _COUNTERS.items()
        }
        reasons = (*LABELS, "finished_reason")
        self.success = Counter("vllm:request_success", "Complete answers.", reasons, registry=registry)


class VllmModel:
    """The labels of one model, bound."""

    def __init__(self, metrics: VllmMetrics, model: str) -> None:
        engine = (model, FRONTEND_ENGINE)
        self._seconds = {name: histogram.labels(*engine) for name, histogram in metrics.seconds.items()}
        self._tokens = {name: histogram.labels(*engine) for name, histogram in metrics.tokens.items()}
        self._counters = {name: counter.labels(*engine) for name, counter in metrics.counters.items()}
        self._success = {reason: metrics.success.labels(*engine, reason.value) for reason in Finish}

    def observe(self, timing: Timing, usage: Usage, e2e_s: float, reason: Finish, max_tokens: int) -> None:
        segments = timing.ttft_segments
        ttft_s, queue_s = timing.ttft_ms / 1e3, sum(segments.get(name, 0.0) for name in _WAITING) / 1e3
        seconds = self._seconds
        seconds["time_to_first_token_seconds"].observe(ttft_s)
        seconds["e2e_request_latency_seconds"].observe(e2e_s)
        seconds["request_queue_time_seconds"].observe(queue_s)
        seconds["request_prefill_time_seconds"].observe(segments.get("prefill_compute", 0.0) / 1e3)
        seconds["request_decode_time_seconds"].observe(e2e_s - ttft_s)
        seconds["request_inference_time_seconds"].observe(max(e2e_s - queue_s, 0.0))
        if usage.completion_tokens > 1:
            per_token_s = (e2e_s - ttft_s) / (usage.completion_tokens - 1)
            seconds["request_time_per_output_token_seconds"].observe(per_token_s)
        self._tokens["request_prompt_tokens"].observe(usage.prompt_tokens)
        self._tokens["request_generation_tokens"].observe(usage.completion_tokens)
        self._tokens["request_max_num_generation_tokens"].observe(usage.completion_tokens)
        if max_tokens:
            self._tokens["request_params_max_tokens"].observe(max_tokens)
        self._counters["prompt_tokens"].inc(usage.prompt_tokens)
        self._counters["generation_tokens"].inc(usage.completion_tokens)
        self._counters["prefix_cache_queries"].inc(usage.prompt_tokens)
        self._counters["prefix_cache_hits"].inc(usage.cached_tokens)
        self._success[reason].inc()


def inter_token(pools: Iterable[tuple[str, Pool]]) -> Metric:
    """By model."""
    family = HistogramMetricFamily("vllm:inter_token_latency_seconds", "Between two tokens.", labels=LABELS)
    for model, pool in pools:
        finer, rest = pool.counts[: _NUM_FINER + 1], pool.counts[_NUM_FINER + 1 :]
        counts = [sum(finer), *rest]
        family.add_metric((model, FRONTEND_ENGINE), cumulative(VLLM_ITL_BUCKETS, counts), pool.sum_ns / 1e9)
    return family


def of_workers(models: Sequence[ModelStatus], workers: Iterable[WorkerStatus]) -> Iterator[Metric]:
    """A worker is an `engine`; so is a model's queue, where a request waits that no worker has taken yet."""
    running = GaugeMetricFamily("vllm:num_requests_running", "Requests in batches.", labels=LABELS)
    waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Requests that wait.", labels=LABELS)
    usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", labels=LABELS)
    blocks = ("block_size", "num_gpu_blocks")
    config = GaugeMetricFamily("vllm:cache_config_info", "KV blocks of a worker.", labels=(*LABELS, *blocks))
    preemptions = CounterMetricFamily("vllm:num_preemptions", "Sequences that gave up their blocks.", labels=LABELS)
    tokens = HistogramMetricFamily("vllm:iteration_tokens_total", "Tokens of a step.", labels=LABELS)
    for model in models:
        waiting.add_metric((model.name, "frontend"), model.queued_requests)
    for worker in workers:
        engine = (worker.model or models[0].name, worker.name)
        running.add_metric(engine, worker.running)
        waiting.add_metric(engine, worker.queued)
        usage.add_metric(engine, worker.pool_share)
        preemptions.add_metric(engine, worker.counts.preemptions)
        if worker.num_blocks:
            config.add_metric((*engine, str(worker.block_tokens), str(worker.num_blocks)), 1.0)
            tokens.add_metric(engine, doubling(worker.steps.tokens), worker.steps.tokens.sum)
    yield from (running, waiting, usage, config, preemptions, tokens)
