"""The oracle of the whole: tokens through prefill, transfer and decode are those of `transformers`' goldens."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import pytest

from frontend.events import Finish
from frontend.request import GenerateRequest, TokenPrompt
from frontend.router import Policy
from protos import worker_pb2 as pb
from tests.cluster import Cluster, cluster
from tests.shared_data import shared_data

GOLDENS = [
    ("stories260K", "golden_greedy.json"),
    ("stories260K", "golden_long.json"),
    ("babyllama105", "golden_greedy.json"),
]


def load(model: str, golden: str) -> tuple[Path, list[dict]]:
    folder = shared_data("models", model)
    content = json.loads((folder / golden).read_text())
    return folder, content["cases"] if isinstance(content, dict) else content


def request(row: dict, **options: object) -> GenerateRequest:
    return GenerateRequest(
        prompt=TokenPrompt(tuple(row["prompt_ids"])),
        max_tokens=len(row["output_ids"]),
        temperature=0.0,
        ignore_eos=True,
        **options,
    )


async def check(running: Cluster, rows: list[dict]) -> None:
    answers = await asyncio.gather(*(running.complete(request(row)) for row in rows))
    for row, answer in zip(rows, answers, strict=True):
        assert answer.token_ids == row["output_ids"]
        assert answer.finished.reason is Finish.LENGTH


@pytest.mark.parametrize(("model", "golden"), GOLDENS)
@pytest.mark.parametrize("transport", ["shm", "ipc", "tcp", "gloo"])
async def test_through_prefill_and_decode(model: str, golden: str, transport: str) -> None:
    folder, rows = load(model, golden)
    async with cluster(folder, transport=transport, worker={"max_step_tokens": 24}) as running:
        await check(running, rows)
        await check(running, rows)  # now out of the prefix caches


@pytest.mark.parametrize(("model", "golden"), GOLDENS)
async def test_unified(model: str, golden: str) -> None:
    folder, rows = load(model, golden)
    async with cluster(folder, prefill=0, worker={"max_step_tokens": 7, "block_tokens": 4}) as running:
        await check(running, rows)
        await check(running, rows)


async def test_with_preemptions() -> None:
    folder, rows = load("stories260K", "golden_greedy.json")
    options = {"num_blocks": 24, "block_tokens": 8, "max_step_tokens": 16}
    async with cluster(folder, worker=options) as running:
        await check(running, rows * 2)
        preemptions = sum(load.preemptions for load in running.loads(pb.ROLE_DECODE))
        assert preemptions > 0, "the test is about preemption"
        assert running.inference.counts.preemptions == preemptions


async def test_over_two_of_each_with_the_routers_own_choice() -> None:
    folder, rows = load("stories260K", "golden_greedy.json")
    async with cluster(folder, prefill=2, decode=2, policy=Policy()) as running:
        await check(running, rows * 6)


async def test_logprobs_are_those_of_the_reference() -> None:
    folder, rows = load("stories260K", "golden_greedy.json")
    async with cluster(folder) as running:
        for row in rows:
            answer = await running.complete(request(row, logprobs=2))
            chosen = [entry.chosen.logprob for delta in answer.deltas for entry in delta.logprobs]
            assert chosen == pytest.approx(row["logprobs"], abs=1e-3)
            for delta in answer.deltas:
                for entry in delta.logprobs:
                    assert entry.top[0].token_id == entry.chosen.token_id
                    assert len(entry.top) == 2


async def test_cancelled_requests_leave_nothing_behind() -> None:
    folder, rows = load("stories260K", "golden_greedy.json")
    async with cluster(folder, prefill=2, decode=2, policy=Policy(), worker={"max_step_tokens": 8}) as running:

        async def cancelled(row: dict, delay_s: float) -> None:
            task = asyncio.create_task(running.complete(request(row)))
            await asyncio.sleep(delay_s)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        for _ in range(4):
            await asyncio.gather(*(cancelled(row, 0.002 * n) for n, row in enumerate(rows * 8)))
        await running.until_idle()
        await check(running, rows)
