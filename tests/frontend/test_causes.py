"""Eight causes of a late token, each made large on a cluster of real workers: the ledger names it, and adds up.

What is asserted is which segment is the largest, never how long anything takes.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.batch import Batch
from engine.config import WorkerConfig
from engine.device import OpenModel, open_model
from engine.hub import DEMO_MODEL
from engine.steps import Pool, StepRunner
from frontend.callers import Caller
from frontend.request import Delta, Finished, GenerateRequest, Timing, TokenPrompt
from protos import worker_pb2 as pb
from tests.cluster import Cluster, cluster
from tests.proxy import proxy

pytestmark = pytest.mark.slow

LONG_S = 0.4
"""Of one thing that a cause makes slow; everything else of a request takes milliseconds."""
OTHERWISE = {"temperature": 0.0, "ignore_eos": True}


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


def request(length: int = 40, first: int = 10, max_tokens: int = 4, **options: object) -> GenerateRequest:
    fields: dict[str, object] = {"prompt": prompt(length, first), **OTHERWISE, **options}
    return GenerateRequest(max_tokens=max_tokens, **fields)  # type: ignore[arg-type]


async def timing_of(running: Cluster, asked: GenerateRequest) -> Timing:
    return checked((await running.complete(asked)).finished.timing)


def checked(timing: Timing) -> Timing:
    """It adds up, within a millisecond and better."""
    assert sum(timing.ttft_segments.values()) == pytest.approx(timing.ttft_ms, abs=1.0)
    if timing.second_token_ms is not None:
        assert sum(timing.second_token_segments.values()) == pytest.approx(timing.second_token_ms, abs=1.0)
    return timing


def largest(timing: Timing) -> str:
    return max(timing.ttft_segments, key=timing.ttft_segments.__getitem__)


def largest_of_second(timing: Timing) -> str:
    return max(timing.second_token_segments, key=timing.second_token_segments.__getitem__)


async def test_a_slow_prefill_worker() -> None:
    async with cluster(DEMO_MODEL, open_worker=slow(pb.ROLE_PREFILL, LONG_S)) as running:
        timing = await timing_of(running, request())
    assert largest(timing) == "prefill_compute"


async def test_a_long_queue_before_prefill() -> None:
    """Four prompts of a whole step each, at once."""
    worker = {"max_step_tokens": 64}
    async with cluster(DEMO_MODEL, worker=worker, open_worker=slow(pb.ROLE_PREFILL, LONG_S)) as running:
        asked = [request(64, first) for first in range(20, 24)]
        timings = await asyncio.gather(*(timing_of(running, each) for each in asked))
    last = max(timings, key=lambda timing: timing.ttft_ms)
    assert largest(last) == "prefill_queue"
    assert largest(min(timings, key=lambda timing: timing.ttft_ms)) == "prefill_compute"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tandem-") as name:
        yield Path(name)


async def test_a_slow_link(folder: Path) -> None:
    """The KV of 600 tokens, 3.7 MB, over 4 MB/s."""
    listen, behind = folder / "kv", folder / "kv.behind"
    async with cluster(DEMO_MODEL, transport="ipc", worker={"kv_listen": f"ipc://{listen}"}) as running:
        listen.rename(behind)
        async with proxy(str(listen), str(behind)) as link:
            fast = await timing_of(running, request(40, 20))
            link.bytes_per_s = 4e6
            timing = await timing_of(running, request(600, 21))
    assert largest_of_second(timing) == "transfer_tail"
    assert timing.second_token_segments["transfer_tail"] > fast.second_token_segments["transfer_tail"]
    assert timing.ttft_segments["transfer_wait"] == 0, "the first token does not wait for it"


async def test_decode_is_full() -> None:
    worker = {"max_sequences": 1}
    async with cluster(DEMO_MODEL, worker=worker, open_worker=slow(pb.ROLE_DECODE, LONG_S / 10)) as running:
        first = asyncio.create_task(running.complete(request(40, 20, max_tokens=40)))
        while not running.inference.recorder.decisions(Caller(), 1):
            await running.fleet.pulse.wait()
        timing = await timing_of(running, request(40, 21))
        await first
    assert largest(timing) == "grant"


async def test_a_cold_prefix() -> None:
    async with cluster(DEMO_MODEL) as running:
        await timing_of(running, request(40, 20))
        cold = await timing_of(running, request(2000, 21))
        warm = await timing_of(running, request(2000, 21))
    assert largest(cold) == "prefill_compute"
    assert cold.cached_share == 0
    assert warm.cached_share > 0.9
    assert warm.ttft_segments["prefill_compute"] < cold.ttft_segments["prefill_compute"]


async def test_a_prompt_that_is_heavy_for_the_tokenizer() -> None:
    """A hundred thousand characters, of which sixteen tokens are wanted."""
    async with cluster(DEMO_MODEL) as running:
        await timing_of(running, request(40, 20))
        text = "What is a KV cache, and who needs it? " * 2_700
        timing = await timing_of(running, GenerateRequest(prompt=text, max_tokens=4, truncate_prompt=16))
    assert largest(timing) == "tokenize"


async def test_a_client_that_reads_slowly() -> None:
    async with cluster(DEMO_MODEL) as running:
        await timing_of(running, request(40, 20))
        finished: Finished | None = None
        async for event in running.inference.generate(request(40, 21, max_tokens=8)):
            if isinstance(event, Delta):
                await asyncio.sleep(LONG_S)
            if isinstance(event, Finished):
                finished = event
    assert finished is not None
    timing = checked(finished.timing)
    assert largest_of_second(timing) == "client"
    assert timing.client_ms >= timing.second_token_segments["client"]
    quick_parts = [ms for name, ms in timing.second_token_segments.items() if name != "client"]
    assert sum(quick_parts) < timing.second_token_segments["client"]


async def test_a_decode_worker_that_starts_anew() -> None:
    """Its stream breaks while the prompt is computed, and nobody listens for a while."""
    async with cluster(DEMO_MODEL, open_worker=slow(pb.ROLE_PREFILL, LONG_S)) as running:
        answer = asyncio.create_task(running.complete(request()))
        while not running.inference.recorder.decisions(Caller(), 1):
            await running.fleet.pulse.wait()
        between = running.proxies["decode-0"]
        between.refuses = True
        between.cut()
        await asyncio.sleep(4 * LONG_S)
        between.refuses = False
        completion = await answer
    timing = checked(completion.finished.timing)
    assert largest(timing) == "retry"
    assert timing.ttft_segments["retry"] > timing.ttft_segments["grant"]
