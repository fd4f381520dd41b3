"""Eight causes of a late token, each made large on a cluster of real workers that is there until the block ends.

Does not know what the ledger should say of them (`tests.frontend.test_causes`), nor who draws it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.batch import Batch
from engine.config import WorkerConfig
from engine.device import OpenModel, open_model
from engine.hub import DEMO_MODEL
from engine.steps import Pool, StepRunner
from frontend.callers import Caller
from frontend.events import Delta, Finished, Started, Timing
from frontend.request import GenerateRequest, TokenPrompt
from protos import worker_pb2 as pb
from tests.cluster import Cluster, cluster
from tests.proxy import proxy

LONG_S = 0.4
"""Of one thing that a cause makes slow; everything else of a request takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Caused:
    """What came of it."""

    running: Cluster
    request_id: str
    """Of the request that shows it."""
    timing: Timing
    others: tuple[Timing, ...] = ()
    """Of requests that do not, or do so less."""


Cause = Callable[[Path], AbstractAsyncContextManager[Caused]]
"""Given a folder whose name is short enough for sockets."""


class Slow:
    """A runner that takes its time."""

    def __init__(self, runner: StepRunner, seconds: float) -> None:
        self._runner = runner
        self._seconds = seconds

    @property
    def cache(self) -> Pool:
        return self._runner.cache

    def __call__(self, batch: Batch) -> torch.Tensor:
        time.sleep(self._seconds)
        return self._runner(batch)


def slow(role: "pb.Role", seconds: float) -> "Callable[[WorkerConfig, pb.Role], OpenModel]":
    """Workers of this role take so much longer for each step."""

    def opened(config: WorkerConfig, its_role: "pb.Role") -> OpenModel:
        model = open_model(config, its_role)
        return replace(model, runner=Slow(model.runner, seconds)) if its_role == role else model

    return opened


def prompt(length: int, first: int = 10) -> TokenPrompt:
    """Begins as no other does that begins with another token."""
    return TokenPrompt((first, *(11 + (first * 31 + i * 7) % 1900 for i in range(length - 1))))


def request(length: int = 40, first: int = 10, max_tokens: int = 4) -> GenerateRequest:
    return GenerateRequest(prompt=prompt(length, first), max_tokens=max_tokens, temperature=0.0, ignore_eos=True)


async def ask(running: Cluster, asked: GenerateRequest) -> tuple[str, Timing]:
    answer = await running.complete(asked)
    return answer.started.request_id, answer.finished.timing


@asynccontextmanager
async def slow_prefill(_: Path) -> AsyncIterator[Caused]:
    async with cluster(DEMO_MODEL, open_worker=slow(pb.ROLE_PREFILL, LONG_S)) as running:
        yield Caused(running, *await ask(running, request()))


@asynccontextmanager
async def long_queue(_: Path) -> AsyncIterator[Caused]:
    """Four prompts of a whole step each, at once, before one prefill worker."""
    worker = {"max_step_tokens": 64}
    async with cluster(DEMO_MODEL, worker=worker, open_worker=slow(pb.ROLE_PREFILL, LONG_S)) as running:
        asked = [request(64, first) for first in range(20, 24)]
        answers = await asyncio.gather(*(ask(running, each) for each in asked))
        *others, (request_id, timing) = sorted(answers, key=lambda answer: answer[1].ttft_ms)
        yield Caused(running, request_id, timing, tuple(timing for _, timing in others))


@asynccontextmanager
async def slow_link(folder: Path) -> AsyncIterator[Caused]:
    """The KV of 600 tokens, 3.7 MB, over 4 MB/s."""
    listen, behind = folder / "kv", folder / "kv.behind"
    async with cluster(DEMO_MODEL, transport="ipc", worker={"kv_listen": f"ipc://{listen}"}) as running:
        listen.rename(behind)
        async with proxy(str(listen), str(behind)) as link:
            _, fast = await ask(running, request(40, 20))
            link.bytes_per_s = 4e6
            yield Caused(running, *await ask(running, request(600, 21)), (fast,))


@asynccontextmanager
async def decode_full(_: Path) -> AsyncIterator[Caused]:
    worker = {"max_sequences": 1}
    async with cluster(DEMO_MODEL, worker=worker, open_worker=slow(pb.ROLE_DECODE, LONG_S / 10)) as running:
        first = asyncio.create_task(running.complete(request(40, 20, max_tokens=40)))
        while not running.inference.recorder.decisions(Caller(), 1):
            await running.fleet.pulse.wait()
        caused = Caused(running, *await ask(running, request(40, 21)))
        await first
        yield caused


@asynccontextmanager
async def cold_prefix(_: Path) -> AsyncIterator[Caused]:
    """The same long prompt twice: the first time nobody has its KV."""
    async with cluster(DEMO_MODEL) as running:
        await ask(running, request(40, 20))
        cold = await ask(running, request(2000, 21))
        _, warm = await ask(running, request(2000, 21))
        yield Caused(running, *cold, (warm,))


@asynccontextmanager
async def heavy_prompt(_: Path) -> AsyncIterator[Caused]:
    """A hundred thousand characters, of which sixteen tokens are wanted."""
    async with cluster(DEMO_MODEL) as running:
        await ask(running, request(40, 20))
        text = "What is a KV cache, and who needs it? " * 2_700
        yield Caused(running, *await ask(running, GenerateRequest(prompt=text, max_tokens=4, truncate_prompt=16)))


@asynccontextmanager
async def slow_client(_: Path) -> AsyncIterator[Caused]:
    async with cluster(DEMO_MODEL) as running:
        await ask(running, request(40, 20))
        events = []
        async for event in running.inference.generate(request(40, 21, max_tokens=8)):
            events.append(event)
            if isinstance(event, Delta):
                await asyncio.sleep(LONG_S)
        started, *_, finished = events
        assert isinstance(started, Started)
        assert isinstance(finished, Finished)
        yield Caused(running, started.request_id, finished.timing)


@asynccontextmanager
async def worker_restart(_: Path) -> AsyncIterator[Caused]:
    """The decode worker's stream breaks while the prompt is computed, and nobody listens for a while."""
    async with cluster(DEMO_MODEL, open_worker=slow(pb.ROLE_PREFILL, LONG_S)) as running:
        answer = asyncio.create_task(ask(running, request()))
        while not running.inference.recorder.decisions(Caller(), 1):
            await running.fleet.pulse.wait()
        between = running.proxies["decode-0"]
        between.refuses = True
        between.cut()
        await asyncio.sleep(4 * LONG_S)
        between.refuses = False
        yield Caused(running, *await answer)


CAUSES: dict[str, Cause] = {
    "slow-prefill": slow_prefill,
    "long-queue": long_queue,
    "slow-link": slow_link,
    "decode-full": decode_full,
    "cold-prefix": cold_prefix,
    "heavy-prompt": heavy_prompt,
    "slow-client": slow_client,
    "worker-restart": worker_restart,
}
