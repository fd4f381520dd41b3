"""What workers say of their steps, links and clocks, as a frontend before real ones hears it."""

import asyncio

from frontend.api import WorkerStatus
from frontend.request import GenerateRequest, TokenPrompt
from protos import worker_pb2 as pb
from tests.cluster import Cluster, cluster
from tests.shared_data import shared_data

NUM_TOKENS = 4


async def heard(running: Cluster) -> dict[str, WorkerStatus]:
    """Once the prefill worker has told of its transfer, and decode of its steps."""
    while True:
        workers = {worker.role: worker for worker in running.inference.workers()}
        links, steps = workers["prefill"].links, workers["decode"].steps
        if links and links[0].transfers and sum(steps.tokens.counts) >= NUM_TOKENS - 1:
            return workers
        await running.fleet.pulse.wait()


async def test_a_transfer_and_its_steps() -> None:
    request = GenerateRequest(
        prompt=TokenPrompt(tuple(range(1, 101))), max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True
    )
    async with cluster(shared_data("models", "stories260K"), transport="ipc") as running:
        await running.complete(request)
        async with asyncio.timeout(30):
            workers = await heard(running)
        block_bytes = running.fleet.links(pb.ROLE_DECODE)[0].hello.block_bytes  # type: ignore[union-attr]
    prefill, decode = workers["prefill"], workers["decode"]
    (link,) = prefill.links
    assert (link.decode, link.transport) == ("decode-0", "zeromq")
    assert (link.size_bytes, link.transfers, link.failures) == (-(-100 // 16) * block_bytes, 1, {})
    assert link.bytes_per_s > 0
    assert (link.in_flight, link.in_flight_bytes) == (0, 0)
    assert prefill.steps.tokens.sum == 100
    assert decode.steps.tokens.sum == decode.steps.sequences.sum == NUM_TOKENS - 1
    assert all(0 < worker.steps.seconds.sum < 30 for worker in workers.values())
    for worker in workers.values():
        assert worker.clock_ahead_s is not None
        assert worker.clock_within_s is not None
        assert abs(worker.clock_ahead_s) <= worker.clock_within_s, "the same clock"
