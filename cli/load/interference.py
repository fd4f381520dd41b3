"""Running streams, undisturbed and then among long prompts: what one does to the other.

1. As many streams as asked run closed loop. When each has its first token, the quiet phase begins.
2. After it, a long prompt is sent every so many seconds, whether or not the last one has been answered. The busy phase
   lasts until the time is up and every long prompt has its answer.
3. A gap between two tokens of a stream belongs to the phase in which it ended. Streams that end ask again, so output
   lengths well above one phase keep their own prompts out of the picture.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import uvloop

from cli.load.client import Client, ServedModel, Tape, vocabulary
from cli.load.config import InterferenceConfig
from cli.load.measure import Record, Summary
from cli.load.prompts import Job, random_ids
from cli.load.run import count_failures, open_client
from cli.load.session import Session
from engine.errors import ConfigError, Unavailable

CANCELLED = "cancelled"
"""How the streams end that still run when the time is up: no failure."""
LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds since the streams were started."""

    quiet_from: float
    busy_from: float
    busy_until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InterferenceResult:
    config: InterferenceConfig
    model: ServedModel
    notes: tuple[str, ...]
    phases: Phases
    streams: tuple[Record, ...]
    longs: tuple[Record, ...]
    summary: Summary
    failures: dict[str, int]
    client_cpu_s: float


def run_interference(
    config: InterferenceConfig, on_progress: Callable[[str, float], None] | None = None
) -> InterferenceResult:
    """One whole run, blocking; `on_progress(phase, seconds)` as phases begin, with how long each will take.

    Raises ConfigError for what cannot be run, Unavailable when the streams do not start.
    """
    return uvloop.run(_run(config, on_progress or (lambda phase, seconds: None)))


async def _run(config: InterferenceConfig, on_progress: Callable[[str, float], None]) -> InterferenceResult:
    if config.target.endpoint == "chat":
        raise ConfigError("interference is measured with token ids, which chat does not take", field="--endpoint")
    client = open_client(config.target)
    try:
        model = await client.served_model()
        vocab, why = vocabulary(config.vocab, model)
        session = Session(client, config.target.timeout_s)
        cpu_s = time.process_time()
        streams: list[Record] = []
        longs: list[Record] = []
        phases = await _phases(config, session, _Prompts(config, vocab), streams, longs, on_progress)
    finally:
        await client.aclose()
    ended = [record for record in streams if record.error != CANCELLED]
    notes = [why, "gaps belong to the phase in which they ended"]
    restarts = sum(record.error is None and record.end_s > phases.quiet_from for record in streams)
    if restarts:
        notes.append(f"{restarts} streams ended and asked again while it was measured: longer outputs avoid that")
    return InterferenceResult(
        config=config,
        model=model,
        notes=tuple(notes),
        phases=phases,
        streams=tuple(streams),
        longs=tuple(longs),
        summary=summarize_interference(streams, longs, phases),
        failures=count_failures([*ended, *longs]),
        client_cpu_s=time.process_time() - cpu_s,
    )


class _Prompts:
    """New random prompts, of the two lengths."""

    def __init__(self, config: InterferenceConfig, vocab: int) -> None:
        self._config = config
        self._vocab = vocab
        self._rng = np.random.default_rng(config.seed)

    def short(self) -> Job:
        return Job(random_ids(self._rng, self._vocab, self._config.input_len), self._config.output_len)

    def long(self) -> Job:
        return Job(random_ids(self._rng, self._vocab, self._config.long_input_len), self._config.long_output_len)


async def _phases(
    config: InterferenceConfig,
    session: Session,
    prompts: _Prompts,
    streams: list[Record],
    longs: list[Record],
    on_progress: Callable[[str, float], None],
) -> Phases:
    session.start()
    first_tapes = [Tape() for _ in range(config.streams)]

    async def stream(number: int) -> None:
        await session.ask(number, prompts.short(), session.now(), streams.append, first_tapes[number])
        while not all(
            record.error for record in streams[-config.streams :]
        ):  # a server that only refuses is left alone
            await session.ask(number, prompts.short(), session.now(), streams.append)

    running = [asyncio.create_task(stream(number)) for number in range(config.streams)]
    try:
        on_progress("streams start", 0.0)
        await _all_begin(session.client, first_tapes, streams, config.target.timeout_s)
        quiet_from = session.now()
        on_progress("quiet", config.quiet_s)
        await asyncio.sleep(config.quiet_s)
        busy_from = session.now()
        on_progress("long prompts", config.duration_s)
        await _send_longs(config, session, prompts, longs)
        return Phases(quiet_from=quiet_from, busy_from=busy_from, busy_until=session.now())
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _all_begin(client: Client, tapes: Sequence[Tape], ended: Sequence[Record], timeout_s: float) -> None:
    """Wait for the first token of each stream. Raises Unavailable if one fails, or the time is up."""
    for _ in range(max(1, round(timeout_s / LOOK_EVERY_S))):
        if failed := next((record.error for record in ended if record.error), None):
            raise Unavailable(f"a stream failed before all had begun, so nothing was measured: {failed}")
        if all(client.read(tape).chunks_s for tape in tapes):
            return
        await asyncio.sleep(LOOK_EVERY_S)  # tapes are not read while they fill, so nobody is told of a first token
    raise Unavailable(f"not every stream had a token after {timeout_s:g} s")


async def _send_longs(config: InterferenceConfig, session: Session, prompts: _Prompts, longs: list[Record]) -> None:
    start_s = session.now()
    async with asyncio.TaskGroup() as tasks:
        for index in range(max(1, round(config.duration_s / config.long_every_s))):
            due_s = start_s + index * config.long_every_s
            await asyncio.sleep(max(0.0, due_s - session.now()))
            tasks.create_task(session.ask(index, prompts.long(), due_s, longs.append))
        await asyncio.sleep(max(0.0, start_s + config.duration_s - session.now()))


def summarize_interference(streams: Sequence[Record], longs: Sequence[Record], phases: Phases) -> Summary:
    """ITL of the streams by phase in milliseconds, their ratios, their tokens per second, and the long prompts' TTFT.

    A server may put several tokens into one chunk; tokens per second count chunks times the mean of the streams that
    ended, or of one token if none did.
    """
    ended = [r for r in streams if r.error is None]
    chunks = sum(len(r.reply.chunks_s) for r in ended)
    per_chunk = sum(r.output_tokens for r in ended) / chunks if chunks else 1.0
    quiet = Gaps(streams, phases.quiet_from, phases.busy_from)
    busy = Gaps(streams, phases.busy_from, phases.busy_until)
    answered = [r for r in longs if r.error is None]
    summary: Summary = {
        "quiet_s": quiet.seconds,
        "busy_s": busy.seconds,
        "quiet_gaps": len(quiet.gaps_ms),
        "busy_gaps": len(busy.gaps_ms),
        "quiet_p50_itl_ms": quiet.percentile(50),
        "quiet_p99_itl_ms": quiet.percentile(99),
        "quiet_max_itl_ms": quiet.percentile(100),
        "busy_p50_itl_ms": busy.percentile(50),
        "busy_p99_itl_ms": busy.percentile(99),
        "busy_max_itl_ms": busy.percentile(100),
        "busy_p99_over_quiet_p50": _ratio(busy.percentile(99), quiet.percentile(50)),
        "busy_max_over_quiet_p50": _ratio(busy.percentile(100), quiet.percentile(50)),
        "quiet_tokens_per_s": quiet.chunks_per_s * per_chunk,
        "busy_tokens_per_s": busy.chunks_per_s * per_chunk,
        "tokens_per_chunk": per_chunk,
        "longs_completed": len(answered),
        "longs_failed": len(longs) - len(answered),
        "longs_median_ttft_ms": float(np.median([r.ttft_ms for r in answered])) if answered else None,
        "longs_max_ttft_ms": max((r.ttft_ms for r in answered), default=None),
    }
    return summary


class Gaps:
    """Of all streams, those that ended between two moments."""

    def __init__(self, streams: Sequence[Record], begin_s: float, end_s: float) -> None:
        self.seconds = end_s - begin_s
        times = [r.reply.chunks_s for r in streams]
        self.gaps_ms = [
            (b - a) * 1e3 for of_one in times for a, b in zip(of_one, of_one[1:], strict=False) if begin_s <= b < end_s
        ]
        num_chunks = sum(begin_s <= at < end_s for of_one in times for at in of_one)
        self.chunks_per_s = num_chunks / self.seconds if self.seconds > 0 else 0.0

    def percentile(self, percent: float) -> float | None:
        return float(np.percentile(self.gaps_ms, percent)) if self.gaps_ms else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
