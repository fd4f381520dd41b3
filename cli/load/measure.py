"""The metrics, under the names and definitions of `vllm bench serve`. Pure; times in are seconds, out milliseconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (90, 95, 99)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one answer held, on the client's clock in seconds."""

    chunks_s: tuple[float, ...]
    """When each chunk that carries tokens arrived."""
    prompt_tokens: int | None = None
    """As the server counts; None if it does not tell."""
    output_tokens: int | None = None
    error: str | None = None
    """`KIND` or `KIND: DETAILS`."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request as the client saw it; seconds since the run's start."""

    index: int
    due_s: float
    """When it should have been sent; in a closed loop, when there was room."""
    sent_s: float
    end_s: float
    asked_input: int | None
    """Tokens of the prompt; None for a text."""
    asked_output: int
    reply: Reply

    @property
    def error(self) -> str | None:
        return self.reply.error

    @property
    def failure(self) -> str | None:
        """The kind of the error: what stands before its details."""
        return None if self.error is None else self.error.partition(": ")[0]

    @property
    def output_tokens(self) -> int:
        """The server's count; without one, each chunk is a token."""
        tokens = self.reply.output_tokens
        return len(self.reply.chunks_s) if tokens is None else tokens

    @property
    def input_tokens(self) -> int:
        return self.reply.prompt_tokens or self.asked_input or 0

    @property
    def ttft_ms(self) -> float:
        return (self.reply.chunks_s[0] - self.sent_s) * 1e3

    @property
    def e2el_ms(self) -> float:
        """To the last token, not to the end of the stream."""
        return (self.reply.chunks_s[-1] - self.sent_s) * 1e3

    @property
    def tpot_ms(self) -> float | None:
        """(E2EL - TTFT) / (output tokens - 1); None for an answer of one token."""
        return (self.e2el_ms - self.ttft_ms) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def itl_ms(self) -> list[float]:
        """Gaps between chunks; a chunk may carry several tokens."""
        times = self.reply.chunks_s
        return [(b - a) * 1e3 for a, b in zip(times, times[1:], strict=False)]

    def value(self, metric: str) -> float:
        """Of a metric that goodput may limit; the TPOT of an answer of one token is 0, as vLLM has it."""
        return {"ttft": self.ttft_ms, "tpot": self.tpot_ms or 0.0, "e2el": self.e2el_ms}[metric]


Summary = dict[str, float | int | None]


def summarize(records: Sequence[Record], duration_s: float, goodput: Mapping[str, float]) -> Summary:
    """Counts, rates over `duration_s`, and statistics of the requests that succeeded."""
    good = [record for record in records if record.error is None]
    total_input, total_output = sum(r.input_tokens for r in good), sum(r.output_tokens for r in good)
    summary: Summary = {
        "duration": duration_s,
        "completed": len(good),
        "failed": len(records) - len(good),
        "total_input_tokens": total_input,
        "total_output_tokens": total_output,
        "request_throughput": _rate(len(good), duration_s),
        "output_throughput": _rate(total_output, duration_s),
        "total_token_throughput": _rate(total_input + total_output, duration_s),
        "max_output_tokens_per_s": _busiest_second(good),
        "max_concurrent_requests": _most_in_one_second(good),
        "peak_concurrency": peak_concurrency(records),
        "tokens_per_chunk": _rate(total_output, sum(len(r.reply.chunks_s) for r in good)),
    }
    if goodput:
        met = sum(all(r.value(metric) <= limit for metric, limit in goodput.items()) for r in good)
        summary |= {"request_goodput": _rate(met, duration_s), "goodput_share": _rate(met, len(records))}
    for metric, values in series(good).items():
        summary |= statistics(metric, values)
    summary["max_send_lag_ms"] = max((r.sent_s - r.due_s for r in records), default=0.0) * 1e3
    return summary


def series(good: Sequence[Record]) -> dict[str, list[float]]:
    """Values in milliseconds by metric; ITL is pooled over all requests, TTST is its first gap in each."""
    gaps = [record.itl_ms for record in good]
    return {
        "ttft": [record.ttft_ms for record in good],
        "tpot": [tpot for record in good if (tpot := record.tpot_ms) is not None],
        "itl": [gap for of_one in gaps for gap in of_one],
        "ttst": [of_one[0] for of_one in gaps if of_one],
        "e2el": [record.e2el_ms for record in good],
        "max_gap": [max(of_one) for of_one in gaps if of_one],
    }


def statistics(metric: str, values: Sequence[float]) -> Summary:
    """`mean_ttft_ms` and so on; None where there is nothing to count."""
    names = ["mean", "std", "median", *(f"p{p}" for p in PERCENTILES), "max"]
    if not values:
        return {f"{name}_{metric}_ms": None for name in names}
    array = np.asarray(values)
    counted = [array.mean(), array.std(), np.median(array), *np.percentile(array, PERCENTILES), array.max()]
    return {f"{name}_{metric}_ms": float(value) for name, value in zip(names, counted, strict=True)}


def peak_concurrency(records: Sequence[Record]) -> int:
    """The most requests open at one instant; one that ends as another starts does not overlap it."""
    running = peak = 0
    for _, change in sorted([(r.sent_s, 1) for r in records] + [(r.end_s, -1) for r in records]):
        running += change
        peak = max(peak, running)
    return peak


def _busiest_second(good: Sequence[Record]) -> float:
    """vLLM's peak: chunks per whole second since the first request was sent."""
    start = min((r.sent_s for r in good), default=0.0)
    seconds = [int(at - start) for r in good for at in r.reply.chunks_s]
    return float(np.bincount(seconds).max()) if seconds else 0.0


def _most_in_one_second(good: Sequence[Record]) -> int:
    """vLLM's peak: requests that were open at some time in one whole second, at once or one after the other."""
    if not good:
        return 0
    start = min(r.sent_s for r in good)
    spans = [(int(r.sent_s - start), int(r.reply.chunks_s[-1] - start)) for r in good]
    open_in = np.zeros(max(last for _, last in spans) + 1, dtype=int)
    for first, last in spans:
        open_in[first : last + 1] += 1
    return int(open_in.max())


def _rate(count: float, per: float) -> float:
    return count / per if per > 0 else 0.0
