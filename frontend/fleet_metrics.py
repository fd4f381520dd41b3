"""What is asked at each scrape: the frontend's queues, and what workers last said of themselves.

Of workers that are gone, only what they counted is part of a sum. Does not know requests.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from frontend.api import Inference
from frontend.step_metrics import WORKER, of_links, of_steps
from frontend.vllm_metrics import of_workers


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


def _blocks(what: str, text: str, attribute: str) -> _WorkerGauge:
    return _WorkerGauge(f"tandem_kv_blocks{what}", f"tandem_worker_kv_blocks{what}", text, attribute)


WORKER_GAUGES = (
    _WorkerGauge("tandem_workers_ready", "tandem_worker_ready", "Workers that take requests.", "ready"),
    _WorkerGauge("tandem_running_sequences", "tandem_worker_running", "Sequences in batches.", "running"),
    _WorkerGauge("tandem_queued_sequences", "tandem_worker_queued", "Sequences that wait for one.", "queued"),
    _WorkerGauge(
        "tandem_waiting_prompt_tokens",
        "tandem_worker_waiting_prompt_tokens",
        "Prompt tokens that workers have still to compute.",
        "queued_tokens",
    ),
    _blocks("", "KV blocks there are.", "num_blocks"),
    _blocks("_free", "KV blocks that can be taken, cached ones among them.", "free_blocks"),
    _blocks("_promised", "KV blocks reserved for transfers.", "promised_blocks"),
    _blocks("_cached", "KV blocks that only the prefix cache holds.", "cached_blocks"),
    _blocks(
        "_leaked",
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


WORKER_CLOCKS = (
    (
        "tandem_worker_clock_ahead_seconds",
        "How far its wall clock is ahead of the frontend's, by round trips.",
        "clock_ahead_s",
    ),
    (
        "tandem_worker_clock_within_seconds",
        "It may be ahead by so much more or less: half of the shortest round trip of late, and drift since.",
        "clock_within_s",
    ),
)
"""What is known of workers' clocks, by attribute of their status."""

MODEL_GAUGES = (
    ("ready", "Whether the model has a worker of every role that takes requests."),
    ("queued_requests", "Waiting for a worker of the model."),
    ("max_queued_requests", "More for the model are refused."),
)
"""What is known of every model, by attribute of its status."""


class FleetCollector(Collector):
    """Asks whoever serves."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering asks nobody."""
        return ()

    def collect(self) -> Iterable[Metric]:
        inference = self._inference
        queued, workers = inference.queued_requests, inference.workers()
        yield GaugeMetricFamily("tandem_queued_requests", "Waiting for a worker.", queued)
        yield GaugeMetricFamily(
            "tandem_queued_prompt_tokens", "Prompt tokens of requests that wait for a worker.", inference.queued_tokens
        )
        yield GaugeMetricFamily("tandem_max_queued_requests", "More are refused.", inference.max_queued_requests)
        models = inference.statuses()
        for attribute, text in MODEL_GAUGES:
            by_model = GaugeMetricFamily(f"tandem_model_{attribute}", f"By model. {text}", labels=("model",))
            for model in models:
                by_model.add_metric((model.name,), getattr(model, attribute))
            yield by_model
        for gauge in WORKER_GAUGES:
            values = [getattr(worker, gauge.attribute) for worker in workers]
            each = GaugeMetricFamily(gauge.of_each, f"By worker. {gauge.text}", labels=WORKER)
            for worker, value in zip(workers, values, strict=True):
                each.add_metric((worker.name, worker.role), value)
            yield GaugeMetricFamily(gauge.of_all, gauge.text, sum(values))
            yield each
        counts = inference.counts
        for attribute, text in WORKER_COUNTERS:
            yield CounterMetricFamily(f"tandem_{attribute}", text, getattr(counts, attribute))
            counters = CounterMetricFamily(f"tandem_worker_{attribute}", f"By worker. {text}", labels=WORKER)
            for worker in workers:
                counters.add_metric((worker.name, worker.role), getattr(worker.counts, attribute))
            yield counters
        for name, text, attribute in WORKER_CLOCKS:
            clocks = GaugeMetricFamily(name, f"By worker. {text}", labels=WORKER)
            for worker in workers:
                if (value := getattr(worker, attribute)) is not None:
                    clocks.add_metric((worker.name, worker.role), value)
            yield clocks
        yield from of_steps(workers)
        yield from of_links(workers)
        yield from of_workers(models, workers)
