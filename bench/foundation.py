"""What separating prefill from decode costs, and what a step costs beside its mathematics.

   python -m bench.foundation [--model DIR] [--runs 9] [--out FILE]

1. TTFT of 512-token prompts: one server with a prefill and a decode worker beside a unified one, same threads,
   requests to the two interleaved, medians.
2. The router's decision: 32 workers, 512-block prompts.
3. A decode step at batch 16: scheduler, batch and bookkeeping by the clock; and the whole step of a model with as many
   layers and next to nothing to compute.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc.aio

from bench.model import make_model
from decode.messages import PrefillHere
from decode.scheduler import DecodeScheduler
from decode.worker import DecodeWorker, TicketTemplate
from engine.config import WorkerConfig
from engine.cost import Costs
from engine.device import open_model
from engine.hashes import block_hashes
from engine.sequence import BlockHash, SamplingParams, Sequence, SequenceId
from frontend.router import Need, Policy, place
from frontend.worker_view import WorkerView
from protos import generate_pb2 as pb
from protos import generate_pb2_grpc, worker_pb2

PROMPT_TOKENS = 512
BATCH = 16
ROOT = BlockHash(bytes(16))
COSTS = Costs((1, 16, 64, 256, 512), (0.03, 0.04, 0.08, 0.24, 0.5), 5e-7, 0.03, 1e-3, 3e-6)
"""As a worker of the 160m shape measures them; the router's time does not depend on the figures."""
Row = dict[str, str | float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder; default: random weights of the 160m shape")
    parser.add_argument("--runs", type=int, default=9, help="requests to each server")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        model = args.model or make_model(Path(folder) / "160m", "160m")
        null = make_model(Path(folder) / "null", "null")
        rows = [
            *ttft_rows(model, args.runs),
            router_row(),
            step_row(model, "host work of a decode step, batch 16 (scheduler, batch, bookkeeping)", whole=False),
            *(
                step_row(null, f"whole decode step of a null model, {threads} threads", whole=True, threads=threads)
                for threads in (1, 2)
            ),
        ]
    for row in rows:
        print(f"{row['measure']:<72} {row['median']:>10.3f} {row['unit']:<6} {row['note']}")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


def row(measure: str, values: list[float], unit: str, note: str = "") -> Row:
    spread = f"{min(values):.3f} to {max(values):.3f}" if len(values) > 1 else ""
    return {"measure": measure, "median": statistics.median(values), "unit": unit, "note": note or spread}


# -- 1. TTFT ---------------------------------------------------------------------------------------------------------


def ttft_rows(model: Path, runs: int) -> list[Row]:
    with serving(model, "--prefill", "0") as unified, serving(model, "--prefill", "1") as disaggregated:
        times = asyncio.run(measure({"unified": unified, "disaggregated": disaggregated}, runs))
    ratios = [d / u for d, u in zip(times["disaggregated"], times["unified"], strict=True)]
    return [
        row(f"TTFT, {PROMPT_TOKENS}-token prompt, unified", times["unified"], "ms"),
        row(f"TTFT, {PROMPT_TOKENS}-token prompt, prefill + decode workers", times["disaggregated"], "ms"),
        row("ratio of the two, request by request", ratios, ""),
    ]


@contextmanager
def serving(model: Path, *arguments: str) -> Iterator[str]:
    """A `tandem up` on free ports; yields its gRPC address."""
    with serving_urls("--model", str(model), *arguments) as (_, address):
        yield address


@contextmanager
def serving_urls(*arguments: str) -> Iterator[tuple[str, str]]:
    """The same; yields its HTTP URL and its gRPC address."""
    command = [sys.executable, "-m", "cli", "up", "--http-port", "0", "--grpc-port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        ready = next((line for line in process.stdout if line.startswith("ready ")), "")
        if not ready:
            sys.exit("tandem up did not become ready")
        _, http, address = ready.split()
        yield http, address.removeprefix("grpc://")
    finally:
        process.terminate()
        process.wait()


async def measure(servers: dict[str, str], runs: int) -> dict[str, list[float]]:
    rng = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in servers}
    for run in range(-2, runs):  # the first two warm up
        for name, address in servers.items():
            value = await ttft_ms(address, [rng.randrange(2, 2000) for _ in range(PROMPT_TOKENS)])
            if run >= 0:
                times[name].append(value)
    return times


async def ttft_ms(address: str, prompt: list[int]) -> float:
    request = pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=prompt), sampling=pb.Sampling(temperature=0), stopping=pb.Stopping(max_tokens=8)
    )
    request.stopping.ignore_eos = True
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        began = time.perf_counter()
        first = 0.0
        async for response in generate_pb2_grpc.InferenceStub(channel).Generate(request):
            if not first and response.WhichOneof("event") == "delta":
                first = time.perf_counter()
    return (first - began) * 1e3


# -- 2. the router ---------------------------------------------------------------------------------------------------


def router_row() -> Row:
    rng = random.Random(0)
    hashes = block_hashes([rng.randrange(1000) for _ in range(512 * 16)], 16, ROOT)
    views = [
        WorkerView(
            worker_id=str(number),
            model="m",
            layout="l",
            num_blocks=4096,
            block_tokens=16,
            block_bytes=1 << 20,
            max_context=65536,
            max_sequences=256,
            hashes=frozenset(hashes[: rng.randrange(512)]),
            free_blocks=rng.randrange(1024, 4096),
            costs=COSTS,
        )
        for number in range(32)
    ]
    need = Need("m", 512 * 16, 512 * 16 + 100, tuple(hashes))
    times = []
    for _ in range(2000):
        began = time.perf_counter()
        place(need, views[:16], views[16:], Policy(), 0.002)
        times.append((time.perf_counter() - began) * 1e3)
    p99 = statistics.quantiles(times, n=100)[98]
    note = f"p50 {statistics.median(times):.3f}"
    return row("router decision, 16 + 16 workers, 8k-token prompt, p99", [p99], "ms", note)


# -- 3. a step -------------------------------------------------------------------------------------------------------


def step_row(model: Path, measure: str, *, whole: bool, threads: int = 0) -> Row:
    """Times of decode steps at batch 16 and about 300 tokens of context; without `whole`, less model and sampler."""
    config = WorkerConfig(model=str(model), threads=threads, kv_memory_mb=512, max_sequences=64)
    opened = open_model(config, worker_pb2.ROLE_DECODE)
    scheduler = DecodeScheduler(opened.who.num_blocks, 16, max_step_tokens=512, max_sequences=64)
    tickets = TicketTemplate("bench", "", opened.who.block_bytes, "", ())
    timed = _Timed(opened.runner, opened.sampler)
    worker = DecodeWorker(scheduler, timed.run, timed.sample, tickets)  # type: ignore[arg-type]
    params = SamplingParams(max_tokens=10_000, seed=0, temperature=0.0)
    commands = [
        PrefillHere(Sequence(SequenceId(str(n)), array("i", [n % 30 + 1] * 256), 256, params)) for n in range(BATCH)
    ]
    worker.apply(commands)
    worker.step()
    while scheduler.waiting_tokens:
        worker.step()
    for _ in range(20):
        worker.step()
    times = []
    for _ in range(100):
        timed.seconds = 0.0
        began = time.perf_counter()
        worker.step()
        seconds = time.perf_counter() - began
        times.append((seconds if whole else seconds - timed.seconds) * 1e3)
    return row(measure, times, "ms")


class _Timed:
    """Runner and sampler with a stop-watch."""

    def __init__(self, runner: object, sampler: object) -> None:
        self._runner = runner
        self._sampler = sampler
        self.seconds = 0.0

    def run(self, batch: object) -> object:
        return self._time(self._runner, batch)

    def sample(self, *args: object) -> object:
        return self._time(self._sampler, *args)

    def _time(self, call: object, *args: object) -> object:
        began = time.perf_counter()
        try:
            return call(*args)  # type: ignore[operator]
        finally:
            self.seconds += time.perf_counter() - began


if __name__ == "__main__":
    main()
