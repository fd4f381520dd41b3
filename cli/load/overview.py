"""A result in words and numbers of two decimals: what the terminal and the page both show. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from cli.load.config import LoadConfig
from cli.load.interference import CANCELLED, InterferenceResult
from cli.load.measure import Record
from cli.load.run import Result

LATENCIES = {
    "ttft": "time to first token",
    "tpot": "time per output token, per request",
    "itl": "inter-token latency, pooled",
    "ttst": "first to second token",
    "e2el": "end-to-end latency",
    "max_gap": "longest gap of a request",
}
STATISTICS = ("mean", "median", "p90", "p99", "max")
PHASE_COLUMNS = {
    "p50": "p50_itl_ms",
    "p99": "p99_itl_ms",
    "worst": "max_itl_ms",
    "tok/s": "tokens_per_s",
    "seconds": "s",
    "gaps": "gaps",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Numbers under names; the first column has a name and words for each row."""

    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    title: str
    facts: tuple[tuple[str, str], ...]
    table: Table
    notes: tuple[str, ...]
    failures: tuple[str, ...]
    """One line per kind, with the first example."""


def overview(result: Result | InterferenceResult) -> Overview:
    return _of_interference(result) if isinstance(result, InterferenceResult) else _of_load(result)


def number(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"


def _of_load(result: Result) -> Overview:
    summary, goodput = result.summary, result.config.goodput
    facts = [
        ("requests", f"{summary['completed']} completed, {summary['failed']} failed"),
        ("horizon", f"{result.duration_s:.2f} s, {_load_words(result.config)}"),
        (
            "tokens",
            f"{summary['total_input_tokens']} in, {summary['total_output_tokens']} out"
            f" ({number(summary['tokens_per_chunk'])} per chunk)",
        ),
        ("request throughput", f"{number(summary['request_throughput'])} req/s"),
        ("output token throughput", f"{number(summary['output_throughput'])} tok/s"),
        ("total token throughput", f"{number(summary['total_token_throughput'])} tok/s"),
        ("peak concurrency", number(summary["peak_concurrency"])),
    ]
    if goodput:
        limits = " ".join(f"{metric}:{limit:g}" for metric, limit in goodput.items())
        share = 100 * float(summary["goodput_share"] or 0)
        facts.append(("goodput", f"{number(summary['request_goodput'])} req/s, {share:.1f} % of requests ({limits})"))
    if not result.config.is_closed_loop:
        facts.append(("latest send", f"{number(summary['max_send_lag_ms'])} ms after it was due"))
    facts.append(("client CPU", _cpu(result.client_cpu_s, int(summary["total_output_tokens"] or 0), result.duration_s)))
    rows = [
        (metric.upper().replace("_", " "), words, tuple(number(summary[f"{name}_{metric}_ms"]) for name in STATISTICS))
        for metric, words in LATENCIES.items()
    ]
    return Overview(
        title=f"{result.config.target.url}  {result.model.name}",
        facts=tuple(facts),
        table=Table(corner="ms", columns=STATISTICS, rows=tuple(rows)),
        notes=result.notes,
        failures=_failures(result.failures, result.records),
    )


def _of_interference(result: InterferenceResult) -> Overview:
    summary, config = result.summary, result.config
    facts = (
        ("busy p99 / quiet p50", number(summary["busy_p99_over_quiet_p50"])),
        ("busy worst / quiet p50", number(summary["busy_max_over_quiet_p50"])),
        (
            "long prompts",
            f"{summary['longs_completed']} of {config.long_input_len} tokens, one every {config.long_every_s:g} s:"
            f" TTFT median {number(summary['longs_median_ttft_ms'])}, max {number(summary['longs_max_ttft_ms'])} ms",
        ),
        (
            "client CPU",
            _cpu(result.client_cpu_s, sum(len(r.reply.chunks_s) for r in result.streams), result.phases.busy_until),
        ),
    )
    rows = [
        (phase, words, tuple(number(summary[f"{phase}_{name}"]) for name in PHASE_COLUMNS.values()))
        for phase, words in (("quiet", "streams alone"), ("busy", "among long prompts"))
    ]
    streams = [record for record in result.streams if record.error != CANCELLED]
    return Overview(
        title=f"{config.target.url}  {result.model.name}: {config.streams} streams, {config.input_len} tokens in",
        facts=facts,
        table=Table(corner="ITL of the streams, ms", columns=tuple(PHASE_COLUMNS), rows=tuple(rows)),
        notes=result.notes,
        failures=_failures(result.failures, [*streams, *result.longs]),
    )


def _failures(failures: dict[str, int], records: Sequence[Record]) -> tuple[str, ...]:
    lines = []
    for kind, count in failures.items():
        first = next(record for record in records if record.failure == kind)
        details = (first.error or "").removeprefix(kind)
        lines.append(f"failed: {count} x {kind}" + (f", first{details}" if details else ""))
    return tuple(lines)


def _load_words(config: LoadConfig) -> str:
    cap = f", at most {config.concurrency} at once" if config.concurrency else ""
    if config.is_closed_loop:
        return f"closed loop, {config.concurrency} at once"
    if config.request_rate is not None and config.request_rate != float("inf"):
        spread = "Poisson" if config.burstiness == 1 else f"burstiness {config.burstiness:g}"
        return f"open loop, {config.request_rate:g} req/s, {spread}{cap}"
    return f"open loop, {'all at once' if config.trace is None or config.request_rate else 'times of the trace'}{cap}"


def _cpu(cpu_s: float, tokens: int, wall_s: float) -> str:
    each = f"{cpu_s / tokens * 1e6:.1f} us per output token, " if tokens else ""
    return f"{each}{100 * cpu_s / wall_s if wall_s else 0:.1f} % of a core"
