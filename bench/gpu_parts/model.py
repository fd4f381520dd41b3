"""Decode and prefill of whole models beside what their bytes and operations allow. What computes is the engine: a
worker's runner, pool, sampler and scheduler (`engine.py`, `streams.py`), with random weights and tokens.

The limit of a decode step is the time in which its weights and its KV are read at copy speed; of a prompt, its
products and its attention at the rate of the best matrix product.
"""

import gc
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from bench.gpu_parts import beside, rival
from bench.gpu_parts.bench import Bench, Task, elapsed_ms, timed
from bench.gpu_parts.engine import BLOCK_TOKENS, NOTHING, Engine, InFloat8, Room, blocks_of, with_blocks
from bench.gpu_parts.errors import judge, worst_row_error
from bench.gpu_parts.limits import COPY, GEMM
from bench.gpu_parts.report import Row
from bench.gpu_parts.shapes import LLAMA_1B, LLAMA_8B, Shape
from bench.gpu_parts.streams import Pace, Streams
from bench.gpu_parts.supervise import RIVAL
from engine.batch import Batch, Chunk
from engine.kernels.gpu.fp8_linear import why_not

CONTEXT, SHORT_CONTEXT, STEPS = 1024, 256, 48
STREAMS, PROMPTS = (1, 64, 256), (2048, 8192)
FP8_STREAMS = 64
"""At both contexts: KV in bfloat16 is more than half of what a step reads at the longer one."""
_WEIGHTS, _WEIGHTS_AND_KV = InFloat8(weights=True), InFloat8(weights=True, kv=True)
RIVAL_STREAMS = 64
_SPARE = 16
"""Steps, and blocks of each stream, beyond those that count."""
_SLACK_BYTES = 8 << 30
_SHARES = {1: 0.80, 256: 0.75}
_TOKENS_PER_S = {64: 10_000.0}
_OF_GEMM, _MOST_GAP = 0.60, 0.03
_TIMES_BF16, _TIMES_RIVAL = 1.5, 3.0
_REPEATS, _AGAIN = 5, 30


class Engines:
    """At most one at a time, opened when it is first asked for."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._open: list[Engine] = []

    def get(self, shape: Shape, in_float8: InFloat8 = NOTHING) -> Engine | None:
        """For as many of `STREAMS` as there is room for; None where the model does not fit, which is said."""
        if self._open and (self._open[0].shape.name, self._open[0].in_float8) == (shape.name, in_float8):
            return self._open[0]
        self.clear()
        real = shape.tiny() if self._bench.is_dry else shape
        rooms = [self._room(streams) for streams in (STREAMS[::-1] if in_float8 == NOTHING else (FP8_STREAMS,))]
        needs = [room.size_bytes(real, in_float8) + _SLACK_BYTES for room in rooms]
        free = self._bench.free_bytes()
        for room, needed in zip(rooms, needs, strict=True):
            if self._bench.is_dry or needed <= free:
                self._open.append(Engine(self._bench, real, room, in_float8))
                return self._open[0]
        note = f"{free / 1e9:.0f} free"
        self._bench.emit(Row(self._bench.task, f"skipped: needs {needs[-1] / 1e9:.0f} GB", note=note))
        return None

    def clear(self) -> None:
        self._open.clear()
        gc.collect()  # a runner and its graphs know each other
        if self._bench.device.type == "cuda":
            torch.cuda.empty_cache()  # what is cached does not count as free

    def _room(self, num_streams: int) -> Room:
        bench, streams = self._bench, self._bench.size(num_streams, min(num_streams, 2))
        longest = bench.size(max(PROMPTS), 24)
        context = max(_context(bench) + _steps(bench), longest) + _SPARE
        blocks = streams * (blocks_of(_context(bench) + _steps(bench) + _SPARE) + 2)
        return Room(streams, longest, context, max(blocks, blocks_of(context)) + 1)


def tasks(bench: Bench) -> Iterator[Task]:
    engines = Engines(bench)
    shapes = (LLAMA_8B, LLAMA_1B)[: bench.size(2, 1)]
    for shape in shapes:
        yield Task(
            f"{shape.name}: a decode step behind a prompt, and the prompt in one",
            partial(_agree, bench, engines, shape),
        )
        for streams in STREAMS:
            yield Task(_decode_name(shape, streams, CONTEXT), partial(_decode, bench, engines, shape, streams))
        for tokens in PROMPTS:
            yield Task(f"{shape.name} prefill, {tokens}", partial(_prefill, bench, engines, shape, tokens))
        if shape is LLAMA_8B:
            short = FP8_STREAMS, SHORT_CONTEXT
            yield Task(_decode_name(shape, *short), partial(_decode, bench, engines, shape, *short))
            yield Task("8B streams beside prompts", partial(_beside, bench, engines))
            for in_float8, context in ((_WEIGHTS, CONTEXT), (_WEIGHTS, SHORT_CONTEXT), (_WEIGHTS_AND_KV, CONTEXT)):
                name = f"{_decode_name(shape, FP8_STREAMS, context)}, FP8{' and its KV' if in_float8.kv else ''}"
                yield Task(name, partial(_decode_fp8, bench, engines, context, in_float8))
    # Last: nobody can say for how long another program takes, and it is ended with the time.
    yield Task(f"{RIVAL}: 8B decode, {RIVAL_STREAMS} streams", partial(_rival, bench, engines))


def _decode_name(shape: Shape, streams: int, context: int) -> str:
    return f"{shape.name} decode, {streams} stream{'' if streams == 1 else 's'} x {context}"


def _bf16_rate(context: int) -> str:
    """The name under which it is kept, for others to be held against."""
    return f"8B bf16 tok/s x {context}"


def _context(bench: Bench, context: int = CONTEXT) -> int:
    return bench.size(context, 20)


def _steps(bench: Bench) -> int:
    return bench.size(STEPS, 3)


def _agree(bench: Bench, engines: Engines, shape: Shape) -> None:
    """What the last of n + 1 tokens gives: computed by a decode step, and with all the others."""
    if (engine := engines.get(shape)) is None:
        return
    length = _context(bench) + 1
    half = engine.room.blocks // 2
    sequence = with_blocks(engine.sequence("agree", length), range(half))
    whole = engine.logits(sequence, 0, length).clone()
    again = with_blocks(sequence, range(2 * half - 1, half - 1, -1))
    engine.logits(again, 0, length - 1)
    judge(bench, bench.task, worst_row_error(engine.logits(again, length - 1, length), whole), 5e-2)
    for name, step in engine.runner.graphs.ways(1).items():  # what the step reads is still there
        first = step(1).clone()
        judge(bench, f"{bench.task}: by {name}", worst_row_error(first, whole), 5e-2)
        moved = sum(not torch.equal(step(1), first) for _ in range(bench.size(_AGAIN, 2)))
        judge(bench, f"{bench.task}: by {name}, again", moved, 0.0, f"of {_AGAIN} other, as by a race")


def _decode(bench: Bench, engines: Engines, shape: Shape, num_streams: int, context: int = CONTEXT) -> None:
    decoded = _decoded(bench, engines, shape, num_streams, context)
    if decoded is None:
        return
    has_targets = shape is LLAMA_8B and context == CONTEXT
    if shape is LLAMA_8B and num_streams == FP8_STREAMS:
        bench.keep_limit(_bf16_rate(context), decoded.rate)
    bench.emit(
        Row(
            bench.task,
            decoded.rate,
            "tok/s",
            decoded.limit,
            decoded.share,
            least_share=_SHARES.get(num_streams) if has_targets else None,
            least_value=_TOKENS_PER_S.get(num_streams) if has_targets else None,
            note=decoded.note,
        )
    )
    gap, note = decoded.pace.gap_share, f"{decoded.pace.device_ms:.2f} ms a step on the device alone"
    target = _MOST_GAP if has_targets else None
    bench.emit(Row(f"{bench.task}: host gap", gap * 100, "%", share=gap, most_share=target, note=note))


def _decode_fp8(bench: Bench, engines: Engines, context: int, in_float8: InFloat8) -> None:
    """With products of float8, or KV as well, held against what the same steps took in bfloat16."""
    if why := why_not(bench.device):
        bench.emit(Row(bench.task, "skipped: no float8", note=why[:160]))
        return
    decoded = _decoded(bench, engines, LLAMA_8B, FP8_STREAMS, context, in_float8)
    if decoded is None:
        return
    before = bench.limits.get(_bf16_rate(context))
    times = f"{decoded.rate / before:.2f} times bf16's; " if before else ""
    target = _TIMES_BF16 * before if before else None
    note = times + decoded.note
    bench.emit(Row(bench.task, decoded.rate, "tok/s", decoded.limit, decoded.share, least_value=target, note=note))


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Steps of one token for each stream."""

    pace: Pace
    rate: float
    """Tokens a second, of all streams"""
    limit: float | None
    """The rate at which weights and KV are read at copy speed"""
    read_bytes: float
    way: str
    """To compute a step, of those that were tried"""

    @property
    def share(self) -> float | None:
        return self.rate / self.limit if self.limit else None

    @property
    def note(self) -> str:
        return f"{self.pace.step_ms:.2f} ms a step, {self.read_bytes / 1e9:.1f} GB read, {self.way}"


def _decoded(
    bench: Bench,
    engines: Engines,
    shape: Shape,
    num_streams: int,
    num_positions: int,
    in_float8: InFloat8 = NOTHING,
) -> _Decoded | None:
    """None where it does not fit, which is said."""
    if (engine := engines.get(shape, in_float8)) is None:
        return None
    streams = bench.size(num_streams, min(num_streams, 2))
    if streams > engine.room.sequences:
        bench.emit(Row(bench.task, f"skipped: there is memory for {engine.room.sequences} streams"))
        return None
    context, steps = _context(bench, num_positions), _steps(bench)
    pace = Streams(engine, streams, context).pace(bench, steps)
    read = in_float8.step_bytes(engine.shape, streams * (context + steps / 2))
    speed = bench.limits.get(COPY)
    limit = streams * speed * 1e9 / read if speed else None
    graphs = engine.runner.graphs
    return _Decoded(pace, streams / pace.step_ms * 1e3, limit, read, graphs.chosen[graphs.bucket(streams)])


def _prefill(bench: Bench, engines: Engines, shape: Shape, num_tokens: int) -> None:
    """The step of one prompt without a cached prefix, its first token with it."""
    if (engine := engines.get(shape)) is None:
        return
    tokens = bench.size(num_tokens, 24)
    prompt = with_blocks(engine.sequence("prompt", tokens), range(blocks_of(tokens)))
    batch = Batch.build([Chunk(prompt, 0, tokens)], BLOCK_TOKENS)
    if not bool(engine.runner(batch).isfinite().all()):
        bench.emit(Row(bench.task, "failed", note="logits are not finite", is_failure=True))
    ms = _launched_ms(bench, engine, batch)
    flops, gemm = engine.shape.prefill_flops(tokens), bench.limits.get(GEMM)
    rate = tokens / ms * 1e3
    limit = tokens * gemm * 1e12 / flops if gemm else None
    share = rate / limit if limit else None
    target = _OF_GEMM if shape is LLAMA_8B else None
    note = f"{ms:.1f} ms, {flops / ms / 1e9:.0f} TFLOP/s"
    bench.emit(Row(bench.task, rate, "tok/s", limit, share, least_share=target, note=note))


def _launched_ms(bench: Bench, engine: Engine, batch: Batch) -> float:
    """Launched kernel by kernel, as the engine does for what it has no graph of."""
    if bench.device.type != "cuda":
        began = time.perf_counter()
        engine.launch(batch, None).collect()
        return (time.perf_counter() - began) * 1e3
    engine.launch(batch, None).collect()
    return statistics.median(elapsed_ms([timed(lambda: engine.launch(batch, None)) for _ in range(_REPEATS)]))


def _beside(bench: Bench, engines: Engines) -> None:
    """Decode while long prompts come: computed by the same worker in chunks, and by another process on the same GPU."""
    if (engine := engines.get(LLAMA_8B)) is not None:
        beside.compare(bench, engine)


def _rival(bench: Bench, engines: Engines) -> None:
    engines.clear()
    rates = rival.decode(bench, LLAMA_8B, RIVAL_STREAMS, CONTEXT)
    if (ours := bench.limits.get(_bf16_rate(CONTEXT))) is None:
        return
    for name, rate in rates.items():
        target = _TIMES_RIVAL if name == rival.CONTINUOUS else None
        bench.emit(Row(f"{bench.task}: ours, times its {name}", ours / rate, "x", least_value=target))
