"""Goodput: the highest request rate at which 90 % of requests meet both limits, TTFT and TPOT.

    python -m bench.rivals.goodput TRACE [--ttft 1000] [--tpot 60] [--output FILE]

TRACE is Azure's conversation trace; its lengths are scaled, its times replaced by Poisson arrivals of the rate that is
tried. The search doubles the rate until it is too much, then halves the interval. A request
is good at TTFT <= 1 s and TPOT <= 60 ms: somebody who waits for a page and reads 17 tokens a second, faster than aloud.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from bench.rivals.models import Models
from bench.rivals.results import Results, Sample
from bench.rivals.servers import Server
from bench.rivals.session import Groups, Session, compare, in_turn, session_parser
from bench.rivals.systems import tandems, vllms
from cli.load.config import LoadConfig, TargetConfig, TraceConfig
from cli.load.run import run_load

SHARE = 0.9
VOCAB = 32_000
MAX_CONTEXT = 2000


def groups(models: Models) -> Groups:
    arrangements, kv = ("unified", "1P1D lent", "1P1D lent both"), ("--kv-memory-mb", "768")
    float32 = *tandems(models, "f32", *arrangements, kv=kv), *vllms(models, "f32", 0, 128, 256, kv_gib=1)
    eight_bits = *tandems(models, "int8", *arrangements, kv=kv), *vllms(models, "W8A8", 0, kv_gib=1)
    return [float32, eight_bits]


def highest(good: Callable[[float], bool], start: float, steps: int, limit: float = 64.0) -> float:
    """The highest rate found good: from `start` doubled or halved to a good and a bad one, then `steps` bisections."""
    rate = start
    if good(rate):
        while rate < limit and good(2 * rate):
            rate *= 2
        low, high = rate, 2 * rate
    else:
        while rate > 1 / limit:
            rate /= 2
            if good(rate):
                break
        else:
            return 0.0
        low, high = rate, 2 * rate
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def share(server: Server, args: argparse.Namespace, rate: float, seed: int) -> tuple[float, dict[str, float]]:
    config = LoadConfig(
        target=TargetConfig(url=server.base_url, model=server.model_name),
        num_prompts=args.requests,
        request_rate=rate,
        trace=TraceConfig(path=args.trace, length_scale=args.length_scale, max_context=MAX_CONTEXT),
        vocab=VOCAB,
        goodput={"ttft": args.ttft, "tpot": args.tpot},
        seed=seed,
    )
    summary = run_load(config).summary
    told = {name: float(summary[name] or 0) for name in ("p90_ttft_ms", "p90_tpot_ms", "output_throughput")}
    return float(summary["goodput_share"] or 0), told


def measure(run: Session) -> None:
    args = run.args
    for server in in_turn(run.servers):
        seeds = count(args.seed)  # a new one for every probe: a cache would know the prompts of the last

        def good(rate: float, server: Server = server, seeds: Iterator[int] = seeds) -> bool:
            met, told = share(server, args, rate, next(seeds))
            run.results.add(Sample(server.name, f"{rate:.3g}/s", 0, {"good": met, **told}))
            return met >= SHARE

        rate = highest(good, args.start, args.steps)
        run.results.add(Sample(server.name, f"TTFT {args.ttft:g}, TPOT {args.tpot:g} ms", 0, {"goodput req/s": rate}))


def report(results: Results) -> str:
    return results.table("goodput req/s", 2)


def main() -> None:
    parser = session_parser(__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--ttft", type=float, default=1000.0, help="ms")
    parser.add_argument("--tpot", type=float, default=60.0, help="ms")
    parser.add_argument("--length-scale", type=float, default=0.25)
    parser.add_argument("--requests", type=int, default=60, help="of each probe")
    parser.add_argument("--start", type=float, default=2.0, help="requests per second tried first")
    parser.add_argument("--steps", type=int, default=3, help="bisections")
    parser.add_argument("--seed", type=int, default=0)
    compare(parser.parse_args(), "goodput", groups, measure, report)


if __name__ == "__main__":
    main()
