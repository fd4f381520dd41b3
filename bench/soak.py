"""Whether an hour changes anything: memory, descriptors, threads and TTFT under a steady load.

    python -m bench.soak [--minutes 60] [--load 0.8] [--model DIR] [--serve-option ...]

A `tandem up`; what it can do at most is measured by a closed loop of 32 streams over gRPC; then requests arrive as a
Poisson process at a share of that rate. Every ten seconds each process's resident memory, descriptors and threads are
noted, as `tandem chaos` does. Reported: their growth from the second sixth to the last, p99 TTFT of each sixth and of
the last beside the first, and how much of the machine other guests took in each, which nothing here can change.
"""

import argparse
import asyncio
import os
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
from cli.chaos.checks import Processes
from cli.chaos.victims import LocalServer, Vitals, find_server

AT_ONCE = 32
CALIBRATION_S = 20.0
SAMPLE_S = 10.0
REFUSED_S = 0.1
"""A stream of a closed loop that is refused waits so long."""
PARTS = 6


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    """Since the start."""
    processes: Processes
    stolen_s: float
    """What other guests took of this machine's processors, since it was started."""

    @classmethod
    def now(cls, began: float, server: LocalServer) -> "Sample":
        return cls(time.monotonic() - began, Processes.of(server), stolen_s())


@dataclass(slots=True)
class Record:
    """What became of requests."""

    ttft: list[tuple[float, float]] = field(default_factory=list)
    """Of each answer: when it was asked for, and its TTFT, in seconds."""
    ends: Counter[str] = field(default_factory=Counter)


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
        samples: list[Sample] = []
        sampling = asyncio.create_task(sample(find_server(http), samples))
        record = await open_loop(stub, most_per_s * load, seconds, rng)
        sampling.cancel()
    settle_s = await settled_s(http)
    held, leaked = held_and_leaked(http)
    print(f"{'requests, by how they ended':<45} {dict(record.ends)}")
    p99s = [p99_ms(record, seconds, part) for part in range(PARTS)]
    print(f"{'p99 TTFT of each sixth, ms':<45} {', '.join(f'{p99:.1f}' for p99 in p99s)}")
    print(f"{'of the last, times that of the first':<45} {p99s[-1] / p99s[0]:.2f}")
    print(f"{'processors taken by other guests':<45} {', '.join(f'{share:.1%}' for share in stolen(samples, seconds))}")
    print(f"{'KV blocks held (after s), and leaked':<45} {held} ({settle_s:.2f}), {leaked}")
    for name in sorted(samples[-1].processes.vitals):
        before, after = (median(samples, seconds, part, name) for part in (1, PARTS - 1))
        rss = f"{before.rss_kib} to {after.rss_kib} KiB"
        rest = f"{before.fds} to {after.fds} descriptors, {before.threads} to {after.threads} threads"
        print(f"{name:<45} {rss}, {rest}")


async def closed_loop(stub: Stub, rng: random.Random) -> float:
    """Answers a second."""
    until, record = time.monotonic() + CALIBRATION_S, Record()

    async def stream() -> None:
        while time.monotonic() < until:
            await one(stub, rng, record, 0.0)

    await asyncio.gather(*(stream() for _ in range(AT_ONCE)))
    return len(record.ttft) / CALIBRATION_S


async def open_loop(stub: Stub, per_s: float, seconds: float, rng: random.Random) -> Record:
    record, began, at_s = Record(), time.monotonic(), 0.0
    async with asyncio.TaskGroup() as requests:
        while (at_s := at_s + rng.expovariate(per_s)) < seconds:
            await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
            requests.create_task(one(stub, rng, record, at_s))
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


async def sample(server: LocalServer, samples: list[Sample]) -> None:
    began = time.monotonic()
    while True:
        samples.append(Sample.now(began, server))
        await asyncio.sleep(SAMPLE_S)


def p99_ms(record: Record, seconds: float, part: int) -> float:
    times = [ttft for at, ttft in record.ttft if part <= at / seconds * PARTS < part + 1]
    return statistics.quantiles(times, n=100)[98] * 1e3


def stolen_s() -> float:
    """Ticks of all processors together, the eighth column of proc(5)'s stat."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


def of_part(samples: list[Sample], seconds: float, part: int) -> list[Sample]:
    return [each for each in samples if part <= each.at_s / seconds * PARTS < part + 1]


def stolen(samples: list[Sample], seconds: float) -> list[float]:
    """In each part, the share of all processors' time."""
    shares = []
    for part in range(PARTS):
        found = of_part(samples, seconds, part)
        took_s, lasted_s = found[-1].stolen_s - found[0].stolen_s, found[-1].at_s - found[0].at_s
        shares.append(took_s / lasted_s / (os.cpu_count() or 1) if lasted_s else 0.0)
    return shares


def median(samples: list[Sample], seconds: float, part: int, name: str) -> Vitals:
    """What a process had in one part of the time."""
    found = [
        each.processes.vitals[name][1] for each in of_part(samples, seconds, part) if name in each.processes.vitals
    ]
    columns = zip(*((each.rss_kib, each.fds, each.threads) for each in found), strict=True)
    return Vitals(*(int(statistics.median(column)) for column in columns))


if __name__ == "__main__":
    main()
