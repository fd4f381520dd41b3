"""Whether an hour changes anything: memory, descriptors, threads and TTFT under a steady load.

    python -m bench.soak [--minutes 60] [--load 0.8] [--model DIR] [--serve-option ...]

A `tandem up`; what it can do at most is measured by a closed loop of 32 streams over gRPC; then requests arrive as a
Poisson process at a share of that rate. Every ten seconds each process's resident memory (less what it shares with
others), descriptors and threads are noted. Reported: their growth from the end of the first sixth to the last, and p99
TTFT of the first and of the last sixth.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from bench.abandon import Stub, asked, held_and_leaked, settled_s
from bench.foundation import serving_urls

AT_ONCE = 32
CALIBRATION_S = 20.0
SAMPLE_S = 10.0
REFUSED_S = 0.1
"""A stream of a closed loop that is refused waits so long."""
PARTS = 6


@dataclass(slots=True)
class Record:
    """What was seen, each with the seconds since the start."""

    ttft: list[tuple[float, float]] = field(default_factory=list)
    """Seconds, of each answer."""
    ends: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[float, dict[str, tuple[int, int, int]]]] = field(default_factory=list)
    """Of each process: private memory in KiB, descriptors, threads."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--load", type=float, default=0.8, help="of what the closed loop gave")
    parser.add_argument("--model", type=Path, help="a folder; default: the model that comes with Tandem")
    parser.add_argument("--serve-option", action="append", default=[], help="of tandem up, like --prefill-cpus=0")
    args = parser.parse_args()
    model = ("--model", str(args.model)) if args.model else ()
    with serving_urls(*model, *args.serve_option) as (http, address):
        asyncio.run(run(http, address, args.minutes * 60, args.load))


async def run(http: str, address: str, seconds: float, load: float) -> None:
    rng = random.Random(0)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = Stub(channel)
        most_per_s = await closed_loop(stub, rng)
        print(f"{'most, requests/s (closed loop of 32)':<45} {most_per_s:.1f}", flush=True)
        record = await open_loop(stub, most_per_s * load, seconds, rng)
    settle_s = await settled_s(http)
    held, leaked = held_and_leaked(http)
    print(f"{'requests, by how they ended':<45} {dict(record.ends)}")
    first, last = (p99_ms(record, seconds, part) for part in (0, PARTS - 1))
    print(f"{'p99 TTFT of the first and the last sixth, ms':<45} {first:.1f}, {last:.1f} ({last / first:.2f} times)")
    print(f"{'KV blocks held (after s), and leaked':<45} {held} ({settle_s:.2f}), {leaked}")
    for name, (before, after) in growth(record, seconds).items():
        changes = ", ".join(f"{b} to {a} {what}" for b, a, what in zip(before, after, UNITS, strict=True))
        print(f"{name:<45} {changes}")


UNITS = ("KiB of its own", "descriptors", "threads")


async def closed_loop(stub: Stub, rng: random.Random) -> float:
    """Answers a second."""
    until, record = time.monotonic() + CALIBRATION_S, Record()

    async def stream() -> None:
        while time.monotonic() < until:
            await one(stub, rng, record, 0.0)

    await asyncio.gather(*(stream() for _ in range(AT_ONCE)))
    return len(record.ttft) / CALIBRATION_S


async def open_loop(stub: Stub, per_s: float, seconds: float, rng: random.Random) -> Record:
    record, began = Record(), time.monotonic()
    sampling = asyncio.create_task(sample(record, began))
    async with asyncio.TaskGroup() as requests:
        while (now := time.monotonic() - began) < seconds:
            requests.create_task(one(stub, rng, record, now))
            await asyncio.sleep(rng.expovariate(per_s))
    sampling.cancel()
    return record


async def one(stub: Stub, rng: random.Random, record: Record, at_s: float) -> None:
    began, first_s = time.monotonic(), 0.0
    try:
        async for message in stub.Generate(asked(rng, rng.randint(8, 64), rng.randint(8, 200))):
            if not first_s and message.HasField("delta"):
                first_s = time.monotonic() - began
    except grpc.aio.AioRpcError as error:
        record.ends[error.code().name] += 1
        await asyncio.sleep(REFUSED_S)
    else:
        record.ends["answered"] += 1
        record.ttft.append((at_s, first_s))


async def sample(record: Record, began: float) -> None:
    while True:
        record.sizes.append((time.monotonic() - began, sizes()))
        await asyncio.sleep(SAMPLE_S)


def sizes() -> dict[str, tuple[int, int, int]]:
    """Of every process of the `tandem up` that this one started, by what it is."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_text().split("\0")
            if "-m" not in command or command[command.index("-m") + 1] not in ("frontend", "prefill", "decode"):
                continue
            name = command[command.index("--worker-id") + 1] if "--worker-id" in command else "frontend"
            rollup = (folder / "smaps_rollup").read_text().splitlines()
            own = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
            found[name] = own, len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))
        except (OSError, ValueError, IndexError):
            continue  # not one of ours, or gone
    return found


def p99_ms(record: Record, seconds: float, part: int) -> float:
    times = [ttft for at, ttft in record.ttft if part <= at / seconds * PARTS < part + 1]
    return statistics.quantiles(times, n=100)[98] * 1e3


def growth(record: Record, seconds: float) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Of each process, what it had on median in the second sixth and in the last."""

    def median(name: str, part: int) -> tuple[int, ...]:
        of_part = [each[name] for at, each in record.sizes if part <= at / seconds * PARTS < part + 1 and name in each]
        return tuple(int(statistics.median(column)) for column in zip(*of_part, strict=True))

    return {name: (median(name, 1), median(name, PARTS - 1)) for name in sorted(record.sizes[-1][1])}


if __name__ == "__main__":
    main()
