"""Pools on a GPU that is only pretended: copies come when their streams are waited for, no sooner."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from engine.config import WorkerConfig
from engine.device import OpenModel, open_model
from engine.tp.copies import Copies
from frontend.request import GenerateRequest, TokenPrompt
from kvtransfer.device_frames import DeviceFrames
from kvtransfer.device_store import DeviceStore
from kvtransfer.pieces import FRAME_BYTES, PIECE_BYTES, Cut, Pieces
from kvtransfer.transport import Arrived
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from protos import worker_pb2 as pb
from tests.cluster import cluster
from tests.gpu.kvtransfer.test_device_store import NUM_BLOCKS, Twins, send_four
from tests.gpu.kvtransfer.test_prompt_to_answer import WORKER, answers, expected, folder
from tests.gpu.pretend.gpu import Gpu
from tests.gpu.pretend.install import pretended
from tests.gpu.pretend.tensors import DEVICE
from tests.kvtransfer.pools import make_ticket

BLOCK_BYTES = PIECE_BYTES + 4096
__all__ = ["expected", "folder"]


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with pretended() as gpu:
        yield gpu


def twins(seed: int) -> Twins:
    with torch.device(DEVICE):
        return Twins(BLOCK_BYTES, seed)


def test_frames_are_filled_and_taken_in_when_the_call_returns(gpu: Gpu) -> None:
    source, target = twins(1), twins(2)
    out, into = (Pieces(Cut(BLOCK_BYTES), np.array(blocks)) for blocks in ([4, 0, 5], [1, 2, 3]))
    some = range(1, len(out))
    frames = [np.zeros(FRAME_BYTES, np.uint8) for _ in range(2)]

    with gpu.no_waits("Stream.synchronize") as waits:
        sums = source.store.gather(out, some, frames[0])
        came = target.store.scatter(into, some, frames[0][: out.size_bytes(some)])

    assert len(waits) == 2
    assert sums.tolist() == came.tolist() == source.host.gather(out, some, frames[1]).tolist()
    assert (frames[0] == frames[1]).all()
    target.host.scatter(into, some, frames[1][: out.size_bytes(some)])
    assert target.bytes() == bytes(target.host.content)


def test_a_copy_waits_for_no_step_and_sees_nothing_of_one(gpu: Gpu) -> None:
    store = DeviceStore(torch.zeros(NUM_BLOCKS, PIECE_BYTES, dtype=torch.uint8, device=DEVICE))
    pieces, frame = Pieces(Cut(PIECE_BYTES), np.arange(NUM_BLOCKS)), np.ones(FRAME_BYTES, np.uint8)
    gpu.synchronize()
    store.pool.fill_(7)
    computed = torch.cuda.Event()
    computed.record()

    store.gather(pieces, range(NUM_BLOCKS), frame)
    assert not frame[: NUM_BLOCKS * PIECE_BYTES].any()

    computed.synchronize()
    store.gather(pieces, range(NUM_BLOCKS), frame)
    assert (frame[: NUM_BLOCKS * PIECE_BYTES] == 7).all()


def test_frames_that_stay_on_the_gpu_are_summed_alike_on_both_sides(gpu: Gpu) -> None:
    source, target = twins(1), twins(2)
    out, into = (Pieces(Cut(BLOCK_BYTES), np.array(blocks)) for blocks in ([4, 0], [1, 2]))
    some = range(len(out))
    gpu.synchronize()
    sending, receiving = DeviceFrames(source.pool), DeviceFrames(target.pool)
    compiled = len(gpu.compiled)

    with gpu.no_waits("Stream.synchronize"):
        payload, sent = sending.gather(out, some)
        came = receiving.scatter(into, some, payload.tensor(out.size_bytes(some)))

    assert len(gpu.compiled) == compiled
    assert sent.tolist() == came.tolist()
    frame = np.zeros(FRAME_BYTES, np.uint8)
    source.host.gather(out, some, frame)
    target.host.scatter(into, some, frame[: out.size_bytes(some)])
    assert target.bytes() == bytes(target.host.content)


def test_a_rank_copies_between_its_pool_and_memory_of_all_ranks(gpu: Gpu) -> None:
    pool = torch.arange(64, dtype=torch.uint8, device=DEVICE).view(4, 16)
    staging = np.zeros(4096, np.uint8)
    gpu.synchronize()
    copies = Copies(pool, memoryview(staging))

    with gpu.no_waits("Stream.synchronize"):
        copies(np.array([[16, 100, 8], [40, 200, 4]]), is_out=True)
        assert staging[100:108].tolist() == list(range(16, 24))
        assert staging[200:204].tolist() == list(range(40, 44))
        staging[100:108] = 9
        copies(np.array([[0, 100, 8]]), is_out=False)

    assert pool.view(-1)[:10].tolist() == [9] * 8 + [8, 9]


async def test_a_ticket_goes_from_gpu_to_gpu(gpu: Gpu) -> None:
    source, target, arrived = twins(1), twins(2), list[Arrived]()
    sender = ZeroMQSender(source.store)
    receiver = ZeroMQReceiver("tcp://127.0.0.1:0", target.store, arrived.append)
    ticket = make_ticket(receiver, target.host, 4)
    receiver.open(ticket, [5, 1, 0, 3])
    gpu.synchronize()

    await send_four(sender, receiver, ticket)

    assert len(arrived) == 1
    target.host.content[:] = target.bytes()
    assert target.host.blocks([5, 1, 0, 3]) == source.host.blocks([2, 3, 5, 0])


def on_gpu(config: WorkerConfig, role: "pb.Role") -> OpenModel:
    return open_model(config.model_copy(update={"device": "cuda", "device_reserve_mb": 8}), role)


@pytest.mark.slow
async def test_prompts_are_answered_between_workers_on_gpus(folder: Path, expected: list[list[int]], gpu: Gpu) -> None:
    """From one's threads and streams to the other's."""
    async with cluster(folder, transport="ipc", worker=WORKER, open_worker=on_gpu) as running:
        assert await answers(running) == expected


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["ipc", "gloo"])
async def test_blocks_that_are_used_again_are_not_written_by_who_had_them(
    folder: Path, transport: str, gpu: Gpu
) -> None:
    """Many short answers in a pool that has room for few: steps that were launched for who has ended are still under
    way."""
    rng, found = Random(1), []
    requests = [
        GenerateRequest(
            prompt=TokenPrompt(tuple(rng.randrange(97) for _ in range(rng.choice([3, 9, 17, 30])))),
            max_tokens=rng.choice([1, 2, 5, 8]),
            temperature=0.0,
            ignore_eos=True,
        )
        for _ in range(16)
    ]
    for opened in (on_gpu, open_model):
        worker = {**WORKER, "num_blocks": 10}
        async with cluster(folder, transport=transport, worker=worker, open_worker=opened) as running:
            completions = await asyncio.gather(*(running.complete(request) for request in requests))
            found.append([completion.token_ids for completion in completions])

    assert found[0] == found[1]


@pytest.mark.slow
async def test_a_scored_prompt_is_as_likely_as_the_host_says(folder: Path, gpu: Gpu) -> None:
    found = []
    request = GenerateRequest(
        prompt=TokenPrompt((5, 6, 7, 8, 9)),
        max_tokens=3,
        temperature=0.0,
        ignore_eos=True,
        logprobs=2,
        prompt_logprobs=2,
    )
    for opened in (on_gpu, open_model):
        async with cluster(folder, transport="ipc", worker=WORKER, open_worker=opened) as running:
            found.append(await running.complete(request))

    assert found[0].token_ids == found[1].token_ids
    assert [token.rank for token in found[0].prompt] == [token.rank for token in found[1].prompt]
    assert len(found[0].prompt) == 5
