"""The GPU's kernels and a model made of them: right or wrong, and how near to what the card can do.

    python bench/gpu.py [--out DIR] [--minutes 7.5] [--only PART ...] [--tune] [--seed N] [--dry-run]

Needs an NVIDIA GPU, torch, triton, numpy and this repository, uninstalled; no network. Parts, in this order:

    limits   what the card copies and multiplies, and what a launch costs, measured in this run
    checks   every kernel of engine/kernels/gpu on random inputs against its torch twin in higher precision
    kernels  each kernel's time, beside those limits or beside what torch does
    model    the engine itself in Llama-3.1-8B's and Llama-3.2-1B's shapes, with random weights: decode, prefill,
             streams beside prompts, and transformers' continuous batching where that is installed
    tune     the candidates of each kernel's list, with --tune or --only tune

Prints one table and, with --out, writes DIR/gpu.json, anew after each part. Exit status 1 if a check failed or
something broke; a missed target alone is no failure. --dry-run takes every path on the CPU, in Triton's interpreter,
on sizes that mean nothing.
"""

import argparse
import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    args = _parse()
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "bench")]
    if args.child is None:
        from bench.gpu_parts.supervise import Plan, supervise  # behind the path

        seed = {} if args.seed is None else {"seed": args.seed}
        plan = Plan(tuple(args.only), args.minutes, args.tune, args.dry_run, args.out, **seed)
        return supervise(plan, Path(__file__))
    # Both are read when Triton is imported. The first also as "0": a machine of developers may have it set.
    os.environ["TRITON_INTERPRET"] = "1" if args.dry_run else "0"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    _leave_out_the_cpu_kernels()
    from bench.gpu_parts.child import run  # it imports Triton

    return run(args.child, args.file, args.seconds, args.dry_run, args.shard, args.seed or 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("limits", "checks", "kernels", "model", "tune")
    parser.add_argument("--only", nargs="+", choices=parts, default=[], metavar="PART", help=", ".join(parts))
    parser.add_argument("--minutes", type=float, default=7.5, help="for everything; what is not reached is said")
    parser.add_argument("--tune", action="store_true", help="also try the candidates of the kernels' lists")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, tiny: whether this script works at all")
    parser.add_argument("--seed", type=int, help="of the random inputs, to see a run's again; another one in each")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where gpu.json goes")
    parser.add_argument("--child", choices=(*parts, "warm", "prompts"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    parser.add_argument("--shard", default="0/1", help=argparse.SUPPRESS)
    return parser.parse_args()


def _leave_out_the_cpu_kernels() -> None:
    """`engine.kernels` as a bare package: its own start is Numba's, which a GPU machine need not have."""
    package = types.ModuleType("engine.kernels")
    package.__path__ = [str(ROOT / "engine" / "kernels")]
    sys.modules["engine.kernels"] = package


if __name__ == "__main__":
    sys.exit(main())
