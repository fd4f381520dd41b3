"""The frontend's Prometheus metrics: `tandem_*`, and from the same values the `vllm:` names that dashboards know.

A request is observed when it ends, never per token, and labels are bound once per model. What workers say of themselves
is read when somebody scrapes. Does not know who calls or where metrics are served. docs/metrics.md lists them all, made
of what is here by `tools/metrics.py`.
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from engine.errors import Limit
from engine.version import VERSION
from frontend.api import Inference
from frontend.buckets import (
    E2E_BUCKETS,
    RATIO_BUCKETS,
    ROUTE_BUCKETS,
    SEGMENT_BUCKETS,
    TPOT_BUCKETS,
    TTFT_BUCKETS,
    cumulative,
)
from frontend.events import Finish, Timing, Usage
from frontend.fleet_metrics import FleetCollector
from frontend.gaps import Pool
from frontend.regret import Judged
from frontend.vllm_metrics import VllmMetrics, VllmModel, inter_token

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OPENMETRICS_TYPE = openmetrics.CONTENT_TYPE_LATEST

Exemplar = dict[str, str] | None
"""The trace that a value is of, for who asks for OpenMetrics; None: there is none."""


class FrontendMetrics:
    """Everything a frontend counts and measures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._latencies = _Latencies(registry)
        self._tokens = _Tokens(registry)
        self._vllm = VllmMetrics(registry)
        self._models: dict[str, _ModelMetrics] = {}
        self._vllm_models: dict[str, VllmModel] = {}
        self._pools: dict[str, Pool] = {}
        registry.register(_PoolCollector(self._pools))
        self._requests = Counter("tandem_requests", "Requests that ended, by outcome.", ["outcome"], registry=registry)
        self._ok = self._requests.labels("ok")
        self._refusals = Counter(
            "tandem_refusals", "Requests that were overloaded, by the limit they met.", ["limit"], registry=registry
        )
        for limit in get_args(Limit):
            self._refusals.labels(limit)  # the first of a series that was not there is no increase
        self.in_flight = Gauge("tandem_requests_in_flight", "Requests under way.", registry=registry)
        routed = Counter("tandem_router_decisions", "Where prompts were prefilled.", ["choice"], registry=registry)
        self._routed = {choice: routed.labels(choice) for choice in ("local", "remote")}
        self._route_seconds = _histogram("tandem_router_decision_seconds", "Choosing workers.", ROUTE_BUCKETS, registry)
        self._ratio = _histogram(
            "tandem_router_prediction_ratio",
            "What the first token took against what was predicted.",
            RATIO_BUCKETS,
            registry,
            ("choice",),
        )
        self._regret = _histogram(
            "tandem_router_regret_seconds",
            "What the other way would have spared, by its estimate.",
            SEGMENT_BUCKETS,
            registry,
            ("choice",),
        )
        for choice in self._routed:
            self._ratio.labels(choice), self._regret.labels(choice)
        self._retries = Counter("tandem_retries", "Attempts after the first one.", registry=registry)
        self._migrations = Counter(
            "tandem_migrations", "Answers that went on on another decode worker.", registry=registry
        )
        Info("tandem_build", "What runs here.", registry=registry).info(
            {"version": VERSION, "python": platform.python_version()}
        )

    def observe_finished(
        self,
        model: str,
        timing: Timing,
        usage: Usage,
        e2e_s: float,
        reason: Finish,
        *,
        max_tokens: int = 0,
        exemplar: Exemplar = None,
    ) -> None:
        """A request got its whole answer. `model` is a served one's name, not the caller's spelling."""
        bound = self._models.get(model)
        if bound is None:
            bound = self._models[model] = _ModelMetrics(model, self._latencies, self._tokens)
            self._vllm_models[model] = VllmModel(self._vllm, model)
        self._ok.inc()
        bound.observe(timing, usage, e2e_s, exemplar)
        self._vllm_models[model].observe(timing, usage, e2e_s, reason, max_tokens)

    def observe_refused(self, reason: str, *, limit: str = "", exemplar: Exemplar = None) -> None:
        """A request ended without its answer: `reason` is `TandemError.reason` or CANCELLED; `limit` is the one that it
        met, if it met one."""
        self._requests.labels(reason.lower()).inc(exemplar=exemplar)
        if limit:
            self._refusals.labels(limit).inc(exemplar=exemplar)

    def observe_gaps(self, model: str, pool: Pool) -> None:
        """However a request ended: the times between its tokens."""
        self._pools.setdefault(model, Pool()).add(pool)

    def observe_routed(self, choice: str, seconds: float) -> None:
        """The router decided `local` or `remote`, and took so long over all attempts."""
        self._routed[choice].inc()
        self._route_seconds.observe(seconds)

    def observe_judged(self, judged: Judged, exemplar: Exemplar = None) -> None:
        """A first token came, and the decision that led to it can be looked at."""
        self._ratio.labels(judged.choice).observe(judged.ratio)
        self._regret.labels(judged.choice).observe(judged.regret_s, exemplar)

    def observe_retry(self) -> None:
        self._retries.inc()

    def observe_migration(self) -> None:
        self._migrations.inc()

    def watch(self, inference: Inference) -> None:
        """Ask `inference` about its queue and its workers at every scrape."""
        self._registry.register(FleetCollector(inference))

    def exposition(self) -> bytes:
        """All metrics as text of `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def openmetrics(self) -> bytes:
        """The same as text of `OPENMETRICS_TYPE`, which has exemplars."""
        # Other ways of escaping make vllm_ of vllm:.
        told: bytes = openmetrics.generate_latest(self._registry, escaping=openmetrics.ALLOWUTF8)  # type: ignore[no-untyped-call]
        return told


class _Latencies:
    """Histograms of seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("model",)
        self.ttft = _histogram("tandem_ttft_seconds", "Time to first token.", TTFT_BUCKETS, registry, labels)
        self.second = _histogram(
            "tandem_second_token_seconds", "From the first token to the second (TTST).", TTFT_BUCKETS, registry, labels
        )
        self.tpot = _histogram(
            "tandem_time_per_output_token_seconds", "Mean per token after the first.", TPOT_BUCKETS, registry, labels
        )
        self.e2e = _histogram("tandem_request_seconds", "Arrival to last token.", E2E_BUCKETS, registry, labels)
        self.client = _histogram(
            "tandem_client_wait_seconds",
            "That tokens of an answer waited for who reads it, all together.",
            SEGMENT_BUCKETS,
            registry,
            labels,
        )
        self.ttft_segment = _histogram(
            "tandem_ttft_segment_seconds", "Parts of the time to first token.", SEGMENT_BUCKETS, registry, ("segment",)
        )
        self.second_segment = _histogram(
            "tandem_second_token_segment_seconds",
            "Parts of the time from the first token to the second.",
            SEGMENT_BUCKETS,
            registry,
            ("segment",),
        )


class _Tokens:
    """Counters of tokens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.prompt = Counter("tandem_prompt_tokens", "Prompt tokens.", ["model"], registry=registry)
        self.completion = Counter("tandem_completion_tokens", "Output tokens.", ["model"], registry=registry)
        self.cached = Counter("tandem_cached_tokens", "Prompt tokens not recomputed.", ["model"], registry=registry)


class _ModelMetrics:
    """The labels of one model, bound."""

    def __init__(self, model: str, latencies: _Latencies, tokens: _Tokens) -> None:
        self._ttft = latencies.ttft.labels(model)
        self._e2e = latencies.e2e.labels(model)
        self._tpot = latencies.tpot.labels(model)
        self._second = latencies.second.labels(model)
        self._client = latencies.client.labels(model)
        self._prompt = tokens.prompt.labels(model)
        self._completion = tokens.completion.labels(model)
        self._cached = tokens.cached.labels(model)
        self._ttft_segments = _Segments(latencies.ttft_segment)
        self._second_segments = _Segments(latencies.second_segment)

    def observe(self, timing: Timing, usage: Usage, e2e_s: float, exemplar: Exemplar) -> None:
        ttft_s = timing.ttft_ms / 1e3
        self._ttft.observe(ttft_s, exemplar)
        self._e2e.observe(e2e_s, exemplar)
        self._ttft_segments.observe(timing.ttft_segments)
        if timing.second_token_ms is not None:
            self._second.observe(timing.second_token_ms / 1e3, exemplar)
            self._second_segments.observe(timing.second_token_segments)
        if usage.completion_tokens > 1:
            self._tpot.observe((e2e_s - ttft_s) / (usage.completion_tokens - 1), exemplar)
            self._client.observe(timing.client_ms / 1e3, exemplar)
        self._prompt.inc(usage.prompt_tokens)
        self._completion.inc(usage.completion_tokens)
        self._cached.inc(usage.cached_tokens)


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


class _PoolCollector(Collector):
    """Times between tokens, which are counted by requests and not one by one."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        pools = list(self._pools.items())
        family = HistogramMetricFamily("tandem_inter_token_seconds", "Between two tokens (ITL).", labels=("model",))
        for model, pool in pools:
            family.add_metric((model,), cumulative(TPOT_BUCKETS, pool.counts), pool.sum_ns / 1e9)
        yield family
        yield inter_token(pools)


def _histogram(
    name: str, text: str, buckets: Sequence[float], registry: CollectorRegistry, labels: Sequence[str] = ()
) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=registry)
