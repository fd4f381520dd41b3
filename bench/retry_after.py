"""Whether Retry-After is right: what refusals tell, beside when the next request was really taken.

    python -m bench.retry_after [--bursts 10] [--requests 64] [--slo 2.0] [--model DIR] [--serve-option ...]

A `tandem up --ttft-slo` with few places. Requests come all at once, more than it can take in time; from then on a probe
asks every 50 ms until one is not refused (it is cancelled at once, and takes nobody's place for long). Every refusal,
of the burst and of the probes, told a time: reported is that, by what it really took.
"""

import argparse
import asyncio
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from bench.abandon import Stub, asked
from bench.foundation import serving_urls

FEW = ("--max-sequences", "4")
WARM_UP_BURST = 8
REFUSED_WITHIN_S = 0.03
"""A probe that has heard nothing by then is waiting, or served."""
PROBE_S = 0.05
PATIENCE_S = 60.0
SETTLED = 0.15
"""What is told or took less than this is as good as now: clients have their own ways."""


@dataclass(frozen=True, slots=True)
class Told:
    """One refusal, in seconds of one clock."""

    at_s: float
    retry_after_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bursts", type=int, default=10)
    parser.add_argument("--requests", type=int, default=64, help="of one burst")
    parser.add_argument("--slo", type=float, default=2.0, help="seconds to the first token")
    parser.add_argument("--model", type=Path, help="a folder; default: the model that comes with Tandem")
    parser.add_argument("--serve-option", action="append", default=[], help="of tandem up, like --prefill-cpus=0")
    args = parser.parse_args()
    model = ("--model", str(args.model)) if args.model else ()
    with serving_urls(*model, f"--ttft-slo={args.slo}", *FEW, *args.serve_option) as (_, address):
        asyncio.run(run(address, args.bursts, args.requests))


async def run(address: str, num_bursts: int, num_requests: int) -> None:
    rng = random.Random(0)
    async with grpc.aio.insecure_channel(address) as channel:
        stub, ratios = Stub(channel), list[float]()
        for _ in range(3):
            await asyncio.gather(*(answered(stub, rng) for _ in range(WARM_UP_BURST)))
        print("| refused | told by the burst, s | taken after, s | told by probes, by what it took |")
        print("|---|---|---|---|")
        for _ in range(num_bursts):
            began = time.monotonic()
            burst = asyncio.gather(*(answered(stub, rng) for _ in range(num_requests)))
            taken_s, probes = await probe(stub, rng)
            refused = [told for told in await burst if told is not None]
            ratios += [ratio(told, taken_s) for told in (*refused, *probes)]
            told_s = f"{min(t.retry_after_s for t in refused):.2f} to {max(t.retry_after_s for t in refused):.2f}"
            of_probes = " ".join(f"{ratio(told, taken_s):.2f}" for told in probes[:: max(len(probes) // 6, 1)])
            print(f"| {len(refused)} of {num_requests} | {told_s} | {taken_s - began:.2f} | {of_probes} |", flush=True)
    within = sum(0.5 <= each <= 2 for each in ratios) / len(ratios)
    print(f"{len(ratios)} refusals: {within:.0%} within a factor of two; median {statistics.median(ratios):.2f}")


def ratio(told: Told, taken_s: float) -> float:
    """What was told by what it took; 1 where both are as good as now."""
    took_s = taken_s - told.at_s
    return max(told.retry_after_s, SETTLED) / max(took_s, SETTLED)


async def answered(stub: Stub, rng: random.Random) -> Told | None:
    """None if it was; else what it was told."""
    try:
        async for _ in stub.Generate(asked(rng, rng.randint(32, 128), rng.randint(8, 200))):
            pass
    except grpc.aio.AioRpcError as error:
        return Told(time.monotonic(), retry_after_s(error))
    return None


async def probe(stub: Stub, rng: random.Random) -> tuple[float, list[Told]]:
    """When a request was first taken since, and what those before it were told."""
    told: list[Told] = []
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        await asyncio.sleep(PROBE_S)
        call, asked_s = stub.Generate(asked(rng, 32, 100)), time.monotonic()
        first = asyncio.ensure_future(call.read())
        await asyncio.wait([first], timeout=REFUSED_WITHIN_S)
        call.cancel()
        try:
            await first
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                told.append(Told(time.monotonic(), retry_after_s(error)))
                continue
        except asyncio.CancelledError:
            pass  # by us, while it waited
        return asked_s, told
    raise SystemExit(f"nothing was taken for {PATIENCE_S:g} s")


def retry_after_s(error: grpc.aio.AioRpcError) -> float:
    """Of an honest refusal; anything else ends the bench."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type] # has what a call has
    info = error_details_pb2.RetryInfo()
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and status is not None:
        for detail in status.details:
            if detail.Unpack(info):
                return float(info.retry_delay.ToNanoseconds() / 1e9)
    raise error


if __name__ == "__main__":
    main()
