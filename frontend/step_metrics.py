"""What workers say of their steps and of the links between them, as Prometheus has it. Values alone."""

from collections.abc import Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from engine.histogram import FIRST_STEP_S, Buckets
from frontend.api import KvLinkStatus, WorkerStatus
from frontend.buckets import cumulative

STEP_BUCKETS = 20
"""Up to 52 s; of sequences and tokens, up to 524,288."""
WORKER = ("worker", "role")
LINK = ("prefill", "decode", "transport")
FAILURES = ("lost", "refused", "stalled", "unreachable")
"""Told before they happen, too: the first of a series that was not there is no increase."""


def doubling(buckets: Buckets, first: float = 1.0) -> list[tuple[str, float]]:
    """As many for every worker, so that they can be added up."""
    return cumulative([round(first * 2**power, 6) for power in range(STEP_BUCKETS)], buckets.counts)


def of_steps(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    """Of workers that are there."""
    for name, text, attribute, first in (
        ("seconds", "What a step takes.", "seconds", FIRST_STEP_S),
        ("sequences", "Sequences of a step: its batch.", "sequences", 1.0),
        ("tokens", "Tokens of a step, of prompts and of answers.", "tokens", 1.0),
    ):
        family = HistogramMetricFamily(f"tandem_worker_step_{name}", text, labels=WORKER)
        for worker in workers:
            if worker.num_blocks:
                buckets: Buckets = getattr(worker.steps, attribute)
                family.add_metric((worker.name, worker.role), doubling(buckets, first), buckets.sum)
        yield family


def of_links(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    """From each prefill worker to each decode worker that it has sent KV to, by the transport that carried it."""
    links = [(worker.name, link) for worker in workers for link in worker.links]
    for name, text, attribute in (
        ("tandem_link_bytes", "KV that was sent, and acknowledged.", "size_bytes"),
        ("tandem_link_transfers", "Transfers of a whole prompt's KV that were taken.", "transfers"),
    ):
        counter = CounterMetricFamily(name, text, labels=LINK)
        for sender, link in links:
            counter.add_metric(_way(sender, link), getattr(link, attribute))
        yield counter
    failures = CounterMetricFamily(
        "tandem_link_failures", "Transfers that failed, or had to go another way.", labels=(*LINK, "reason")
    )
    for sender, link in links:
        for reason in dict.fromkeys((*FAILURES, *link.failures)):
            failures.add_metric((*_way(sender, link), reason), link.failures.get(reason, 0))
    yield failures
    for name, text, attribute in (
        ("tandem_link_bytes_per_second", "Speed while busy, of what was sent lately; 0 until then.", "bytes_per_s"),
        ("tandem_link_in_flight", "Transfers that are sending now.", "in_flight"),
        ("tandem_link_in_flight_bytes", "What these have to send.", "in_flight_bytes"),
    ):
        gauge = GaugeMetricFamily(name, text, labels=LINK)
        for sender, link in links:
            gauge.add_metric(_way(sender, link), getattr(link, attribute))
        yield gauge


def _way(sender: str, link: KvLinkStatus) -> tuple[str, str, str]:
    return sender, link.decode, link.transport
