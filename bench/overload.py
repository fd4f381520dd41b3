"""What ten times too much does to those who are served: goodput by offered load, under an objective for TTFT.

    python -m bench.overload [--slo 1.0] [--seconds 20] [--model DIR] [--serve-option ...]

A `tandem up --ttft-slo`; what it can do at most is measured by a closed loop of 32 streams over gRPC; then requests
arrive as a Poisson process at a share of that rate, or at several times it. Goodput is the answers a second whose first
token came within the objective. Whatever is not answered must be an honest refusal (RESOURCE_EXHAUSTED).
"""

import argparse
import asyncio
import random
from pathlib import Path

import grpc.aio

from bench.abandon import Stub
from bench.foundation import serving_urls
from bench.soak import Record, closed_loop, open_loop

LOADS = (0.5, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slo", type=float, default=1.0, help="seconds to the first token")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--model", type=Path, help="a folder; default: the model that comes with Tandem")
    parser.add_argument("--serve-option", action="append", default=[], help="of tandem up, like --prefill-cpus=0")
    args = parser.parse_args()
    model = ("--model", str(args.model)) if args.model else ()
    with serving_urls(*model, f"--ttft-slo={args.slo}", *args.serve_option) as (_, address):
        asyncio.run(run(address, args.slo, args.seconds))


async def run(address: str, slo_s: float, seconds: float) -> None:
    rng = random.Random(0)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = Stub(channel)
        most_per_s = await closed_loop(stub, rng)
        print(f"most, requests/s (closed loop of 32): {most_per_s:.1f}", flush=True)
        print(
            "| offered | requests/s | goodput/s | answered late | refused | anything else |\n|---|---|---|---|---|---|"
        )
        for load in LOADS:
            record = await open_loop(stub, most_per_s * load, seconds, rng)
            print(line(record, load, most_per_s * load, slo_s, seconds), flush=True)


def line(record: Record, load: float, per_s: float, slo_s: float, seconds: float) -> str:
    good = sum(ttft <= slo_s for _, ttft in record.ttft)
    refused = record.ends["RESOURCE_EXHAUSTED"]
    other = record.ends.total() - len(record.ttft) - refused
    late = len(record.ttft) - good
    return f"| {load:g} times | {per_s:.1f} | {good / seconds:.1f} | {late} | {refused} | {other} |"


if __name__ == "__main__":
    main()
