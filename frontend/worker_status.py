"""What is told of a worker, from what its link knows of it. Values alone."""

import time
from collections.abc import Collection

from engine.histogram import Buckets, Steps
from frontend.api import KvLinkStatus, WorkerStatus
from frontend.link import Link
from protos import worker_pb2 as pb


def worker_status(role: "pb.Role", link: Link, models: Collection[str]) -> WorkerStatus:
    """`models` are those that the frontend serves."""
    hello, load, state = link.hello or pb.Hello(), link.load, _state(link, models)
    ahead = link.clock.ahead(time.monotonic_ns())
    return WorkerStatus(
        worker_id=hello.worker_id,
        role="prefill" if role == pb.ROLE_PREFILL else "decode",
        address=link.address,
        model=link.model,
        ready=not state,
        num_blocks=hello.num_blocks,
        free_blocks=load.free_blocks,
        cached_blocks=load.cached_blocks,
        promised_blocks=load.promised_blocks,
        leaked_blocks=load.leaked_blocks,
        block_tokens=hello.block_tokens,
        running=load.running,
        queued=load.waiting,
        queued_tokens=load.waiting_tokens,
        max_sequences=hello.max_sequences,
        prefill_tokens_per_s=load.prefill_tokens_per_s,
        decode_step_s=load.decode_step_s,
        transfer_bytes_per_s=load.transfer_bytes_per_s,
        slowdown=load.slowdown,
        steps=Steps(_buckets(load.step_seconds), _buckets(load.step_sequences), _buckets(load.step_tokens)),
        links=tuple(map(_kv_link, load.links)),
        clock_ahead_s=ahead.seconds if ahead else None,
        clock_within_s=ahead.within_s if ahead else None,
        state=state,
        counts=link.tally.total,
    )


def _state(link: Link, models: Collection[str]) -> str:
    if link.view is None:
        return "not connected"
    if link.model not in models:
        return f"its model {link.model!r} is not served here"
    return link.view.hindered or ("draining" if link.view.draining else "")


def _buckets(histogram: pb.Histogram) -> Buckets:
    return Buckets(tuple(histogram.counts), histogram.sum)


def _kv_link(link: pb.KvLink) -> KvLinkStatus:
    return KvLinkStatus(
        decode=link.decode_worker_id,
        transport=link.transport,
        size_bytes=link.size_bytes,
        transfers=link.transfers,
        failures=dict(link.failures),
        bytes_per_s=link.bytes_per_s,
        in_flight=link.in_flight,
        in_flight_bytes=link.in_flight_bytes,
    )
