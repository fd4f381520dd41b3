"""What is left of requests that nobody waits for: many, a part cancelled at any moment, a part past its deadline.

    python -m bench.abandon [--requests 10000] [--at-once 48] [--model DIR] [--serve-option ...]

A `tandem up` of two prefill and two decode workers with little memory, so that requests wait and sequences are
preempted. Of the requests, 30 % are cancelled: before their first message, or after a random number of tokens; 5 %
have a deadline that is too short for most of them. Then: who still holds KV blocks, and the time to first token of lone
requests beside what it was before the storm.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
import grpc.aio

from bench.foundation import serving_urls
from protos import generate_pb2 as pb
from protos import generate_pb2_grpc

TIGHT = ("--prefill", "2", "--decode", "2", "--block-tokens", "8", "--num-blocks", "320", "--max-sequences", "12")
CANCELLED, LATE = 0.30, 0.05
Stub = generate_pb2_grpc.InferenceStub
LONE_REQUESTS = 60
PATIENCE_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=48)
    parser.add_argument("--model", type=Path, help="a folder; default: the model that comes with Tandem")
    parser.add_argument("--serve-option", action="append", default=[], help="of tandem up, like --prefill-cpus=0")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    model = ("--model", str(args.model)) if args.model else ()
    with serving_urls(*model, *TIGHT, *args.serve_option) as (http, address):
        asyncio.run(run(http, address, args.requests, args.at_once, random.Random(args.seed)))


async def run(http: str, address: str, num_requests: int, at_once: int, rng: random.Random) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = Stub(channel)
        idle_ms = await lone_ttft_ms(stub, rng)
        began = time.monotonic()
        ends = await storm(stub, num_requests, at_once, rng)
        seconds = time.monotonic() - began
        settle_s = await settled_s(http)
        after_ms = await lone_ttft_ms(stub, rng)
    held, leaked = held_and_leaked(http)
    ended = ", ".join(f"{count} {end}" for end, count in ends.most_common())
    for measure, value in (
        ("requests, by how they ended", ended),
        ("requests/s", f"{num_requests / seconds:.0f}"),
        ("streams without an end after a minute", ends["stuck"]),
        ("seconds until nobody held a block", f"{settle_s:.2f}"),
        ("KV blocks held, and leaked", f"{held}, {leaked}"),
        (
            "TTFT of lone requests before and after, ms",
            f"{idle_ms:.2f}, {after_ms:.2f} ({after_ms / idle_ms:.2f} times)",
        ),
    ):
        print(f"{measure:<45} {value}", flush=True)


async def storm(stub: Stub, num_requests: int, at_once: int, rng: random.Random) -> Counter[str]:
    """Make all requests, so many at once; how they ended."""
    turns = asyncio.Semaphore(at_once)

    async def one(seed: int) -> str:
        async with turns:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await ask(stub, random.Random(seed))
            except TimeoutError:
                return "stuck"

    return Counter(await asyncio.gather(*(one(rng.randrange(1 << 30)) for _ in range(num_requests))))


async def ask(stub: Stub, rng: random.Random) -> str:
    request = asked(rng, rng.randint(1, 64), rng.randint(1, 200))
    fate = rng.random()
    late, cancelled = fate < LATE, LATE <= fate < LATE + CANCELLED
    call = stub.Generate(request, timeout=rng.uniform(0.001, 0.1) if late else None)
    messages = rng.randint(0, request.stopping.max_tokens) if cancelled else None
    try:
        if messages == 0:
            await asyncio.sleep(rng.uniform(0, 0.05))
        else:
            num_read = 0
            async for _ in call:
                num_read += 1
                if num_read == messages:
                    break
            else:
                return "answered"
        call.cancel()
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "cancelled"


def asked(rng: random.Random, max_tokens: int, num_prompt: int) -> pb.GenerateRequest:
    ids = [rng.randrange(3, 250) for _ in range(num_prompt)]
    stopping = pb.Stopping(max_tokens=max_tokens, ignore_eos=True)
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), stopping=stopping)


async def lone_ttft_ms(stub: Stub, rng: random.Random) -> float:
    """The median over requests one after the other."""
    times = []
    for number in range(LONE_REQUESTS + 5):
        began, first_s = time.perf_counter(), 0.0
        async for message in stub.Generate(asked(rng, 4, 100)):
            if not first_s and message.HasField("delta"):
                first_s = time.perf_counter() - began
        if number >= 5:
            times.append(first_s * 1e3)
    return statistics.median(times)


async def settled_s(http: str) -> float:
    """Until nobody holds a block any more."""
    began = time.monotonic()
    while held_and_leaked(http)[0]:
        if time.monotonic() - began > PATIENCE_S:
            break
        await asyncio.sleep(0.05)
    return time.monotonic() - began


def held_and_leaked(http: str) -> tuple[int, int]:
    with urllib.request.urlopen(f"{http}/debug/custody", timeout=10) as response:
        workers = json.load(response)
    held = sum(len(holder["blocks"]) for worker in workers for holder in worker["holders"])
    return held, sum(worker["leaked_blocks"] for worker in workers)


if __name__ == "__main__":
    main()
