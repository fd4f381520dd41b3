"""Running streams against arriving long prompts: what each system lets the one do to the other.

    python -m bench.rivals.interference [--rounds 5] [--output FILE]

Six streams of 128 tokens in, undisturbed for a while; then a prompt of 1,024 tokens every 4 seconds. Float32 first,
then eight bits: the servers of either run from beginning to end, idle but for the one that is measured. Streams that
end ask again, and the prompts of those are short enough to disturb nobody for long; fast systems end theirs more often.
"""

import argparse
from functools import partial

from bench.rivals.models import Models
from bench.rivals.results import Results, Value
from bench.rivals.servers import Server
from bench.rivals.session import Groups, Session, compare, in_turn, session_parser
from bench.rivals.systems import llamas, tandems, vllms
from cli.load.config import InterferenceConfig, TargetConfig
from cli.load.interference import run_interference

CASE = "6 streams"
VOCAB = 32_000
FIGURES = {
    "quiet p50 ms": "quiet_p50_itl_ms",
    "busy p99 ms": "busy_p99_itl_ms",
    "worst gap ms": "busy_max_itl_ms",
    "p99 / quiet p50": "busy_p99_over_quiet_p50",
    "worst / quiet p50": "busy_max_over_quiet_p50",
    "busy tok/s": "busy_tokens_per_s",
    "quiet tok/s": "quiet_tokens_per_s",
    "long TTFT ms": "longs_median_ttft_ms",
}
"""The name in the table, and in the summary of `tandem bench --interference`."""


def groups(models: Models) -> Groups:
    arrangements, kv = ("unified", "1P1D lent", "1P1D lent both"), ("--kv-memory-mb", "384")
    llama_f32, llama_q8_0 = llamas(models, 8, 2048)
    vllm_f32, vllm_w8a8 = vllms(models, "f32", 0, 64, 128, 256, kv_gib=1), vllms(models, "W8A8", 0, 256, kv_gib=1)
    float32 = *tandems(models, "f32", *arrangements, kv=kv), *vllm_f32, llama_f32
    eight_bits = *tandems(models, "int8", *arrangements, kv=kv), *vllm_w8a8, llama_q8_0
    return [float32, eight_bits]


def measure(run: Session) -> None:
    for number in range(run.args.rounds):
        for server in in_turn(run.servers, number):
            run.results.measure(server.name, CASE, number, partial(one, run.args, server, number))


def one(args: argparse.Namespace, server: Server, number: int) -> dict[str, Value]:
    config = InterferenceConfig(
        target=TargetConfig(url=server.base_url, model=server.model_name),
        output_len=1500,
        quiet_s=args.quiet,
        duration_s=args.busy,
        vocab=VOCAB,
        seed=number,
    )
    result = run_interference(config)
    figures: dict[str, Value] = {name: result.summary[key] for name, key in FIGURES.items()}
    return figures | {"failed": ", ".join(f"{count} {kind}" for kind, count in result.failures.items())}


def report(results: Results) -> str:
    """One row a system, medians with their spread."""
    digits = {name: 2 if "/ quiet" in name else 0 for name in FIGURES}
    return f"{results.wide_table(CASE, digits)}\n\n{results.failures()}"


def main() -> None:
    parser = session_parser(__doc__, rounds=5)
    parser.add_argument("--quiet", type=float, default=6.0, help="seconds without long prompts")
    parser.add_argument("--busy", type=float, default=20.0, help="seconds with them")
    compare(parser.parse_args(), "interference of long prompts with running streams", groups, measure, report)


if __name__ == "__main__":
    main()
