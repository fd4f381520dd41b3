"""Decode and prefill of whole models beside what their bytes and operations allow; see `composed.py` for what they are.

The limit of a decode step is the time in which its weights and its KV are read at copy speed; of a prompt, its
products and its attention at the rate of the best matrix product.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from bench.gpu_parts import rival
from bench.gpu_parts.bench import Bench, Task
from bench.gpu_parts.composed import ComposedModel
from bench.gpu_parts.errors import judge, worst_row_error
from bench.gpu_parts.limits import COPY, GEMM
from bench.gpu_parts.report import Row
from bench.gpu_parts.shapes import LLAMA_1B, LLAMA_8B, Shape
from bench.gpu_parts.steps import Cache, DecodeLoop, Pace, Prefill
from bench.gpu_parts.supervise import RIVAL
from engine.kernels.gpu.fp8_linear import why_not

CONTEXT, STEPS = 1024, 48
STREAMS, PROMPTS = (1, 64, 256), (2048, 8192)
FP8_STREAMS = 64
_SLACK_BYTES = 6 << 30
_SHARES = {1: 0.80, 256: 0.75}
_TOKENS_PER_S = {64: 10_000.0}
_OF_GEMM, _MOST_GAP = 0.60, 0.03
_BF16_RATE, _TIMES_BF16 = "8B bf16 tok/s", 1.5


class _Models:
    """At most one at a time, made when it is first asked for."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._made: list[ComposedModel] = []

    def has(self, shape: Shape, quantized: torch.dtype | None = None) -> bool:
        return bool(self._made) and (self._made[0].shape.name, self._made[0].quantized) == (shape.name, quantized)

    def get(self, shape: Shape, quantized: torch.dtype | None = None) -> ComposedModel:
        if not self.has(shape, quantized):
            self.clear()
            dtype = torch.float16 if self._bench.is_dry else torch.bfloat16
            real = shape.tiny() if self._bench.is_dry else shape
            context = self._bench.size(max(PROMPTS) + STEPS, 64)
            self._made.append(ComposedModel(real, context, dtype, quantized))
        return self._made[0]

    def clear(self) -> None:
        self._made.clear()
        if self._bench.device.type == "cuda":
            torch.cuda.empty_cache()  # what is cached does not count as free


def tasks(bench: Bench) -> Iterator[Task]:
    models = _Models(bench)
    yield Task("1B: a decode step behind a prompt, and the prompt in one", partial(_agree, bench, models))
    for shape in (LLAMA_8B, LLAMA_1B)[: bench.size(2, 1)]:
        for streams in STREAMS:
            name = f"{shape.name} decode, {_streams(streams)} x {CONTEXT}"
            yield Task(name, partial(_decode, bench, models, shape, streams))
        for tokens in PROMPTS:
            yield Task(f"{shape.name} prefill, {tokens}", partial(_prefill, bench, models, shape, tokens))
    yield Task(f"8B decode, {FP8_STREAMS} streams, FP8", partial(_decode_fp8, bench, models))
    yield Task(f"{RIVAL}: 8B decode, 64 streams", partial(_rival, bench, models))


def _streams(count: int) -> str:
    return f"{count} stream{'' if count == 1 else 's'}"


def _agree(bench: Bench, models: _Models) -> None:
    """What the last of n + 1 tokens gives: computed by a decode step, and with all the others."""
    model, context = models.get(LLAMA_1B), bench.size(1000, 20)
    tokens = torch.randint(0, model.shape.vocab_size, (context + 1,))
    whole = Prefill(model, Cache(model, 1, context + 1), tokens)
    whole.step()
    cache = Cache(model, 1, context + 2)
    Prefill(model, cache, tokens[:-1]).step()
    loop = DecodeLoop(bench, model, cache, 1, context)
    loop.tokens.copy_(tokens[-1:])
    loop.step()
    judge(bench, bench.task, worst_row_error(loop.logits, whole.logits), 5e-2)


def _decode(bench: Bench, models: _Models, shape: Shape, num_streams: int) -> None:
    decoded = _decoded(bench, models, shape, num_streams)
    if decoded is None:
        return
    is_8b = shape is LLAMA_8B
    if is_8b and num_streams == FP8_STREAMS:
        bench.keep_limit(_BF16_RATE, decoded.rate)
    bench.emit(
        Row(
            bench.task,
            decoded.rate,
            "tok/s",
            decoded.limit,
            decoded.share,
            least_share=_SHARES.get(num_streams) if is_8b else None,
            least_value=_TOKENS_PER_S.get(num_streams) if is_8b else None,
            note=decoded.note,
        )
    )
    gap = decoded.pace.gap_share
    bench.emit(Row(f"{bench.task}: host gap", gap * 100, "%", share=gap, most_share=_MOST_GAP if is_8b else None))


def _decode_fp8(bench: Bench, models: _Models) -> None:
    """With products of float8, held against what the same steps took in bfloat16."""
    if why := why_not(bench.device):
        bench.emit(Row(bench.task, "skipped: no float8", note=why[:160]))
        return
    decoded = _decoded(bench, models, LLAMA_8B, FP8_STREAMS, torch.float8_e4m3fn)
    if decoded is None:
        return
    before = bench.limits.get(_BF16_RATE)
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

    @property
    def share(self) -> float | None:
        return self.rate / self.limit if self.limit else None

    @property
    def note(self) -> str:
        return f"{self.pace.step_ms:.2f} ms a step, {self.read_bytes / 1e9:.1f} GB read"


def _decoded(
    bench: Bench, models: _Models, shape: Shape, num_streams: int, quantized: torch.dtype | None = None
) -> _Decoded | None:
    """None where it does not fit, which is said."""
    streams, context, steps = bench.size(num_streams, min(num_streams, 2)), bench.size(CONTEXT, 20), STEPS
    room = context + bench.size(steps, 4) + 8
    if not _fits(bench, models, shape, streams * room, quantized):
        return None
    model = models.get(shape, quantized)
    loop = DecodeLoop(bench, model, Cache(model, streams, room), streams, context)
    pace = loop.pace(steps)
    if not bool(loop.logits.isfinite().all()):
        bench.emit(Row(bench.task, "failed", note="logits are not finite", is_failure=True))
    weights = model.shape.step_weight_bytes if quantized is None else model.shape.eight_bit_step_weight_bytes
    read = weights + streams * (context + steps / 2) * model.shape.position_bytes
    speed = bench.limits.get(COPY)
    return _Decoded(pace, streams / pace.step_ms * 1e3, streams * speed * 1e9 / read if speed else None, read)


def _prefill(bench: Bench, models: _Models, shape: Shape, num_tokens: int) -> None:
    tokens = bench.size(num_tokens, 24)
    if not _fits(bench, models, shape, tokens):
        return
    model = models.get(shape)
    prompt = Prefill(model, Cache(model, 1, tokens), torch.randint(0, model.shape.vocab_size, (tokens,)))
    ms = prompt.median_ms(bench)
    if not bool(prompt.logits.isfinite().all()):
        bench.emit(Row(bench.task, "failed", note="logits are not finite", is_failure=True))
    flops, gemm = model.shape.prefill_flops(tokens), bench.limits.get(GEMM)
    rate = tokens / ms * 1e3
    limit = tokens * gemm * 1e12 / flops if gemm else None
    share = rate / limit if limit else None
    target = _OF_GEMM if shape is LLAMA_8B else None
    note = f"{ms:.1f} ms, {flops / ms / 1e9:.0f} TFLOP/s"
    bench.emit(Row(bench.task, rate, "tok/s", limit, share, least_share=target, note=note))


def _fits(bench: Bench, models: _Models, shape: Shape, positions: int, quantized: torch.dtype | None = None) -> bool:
    """Whether the model and so many positions do; says so if not."""
    if bench.is_dry:
        return True
    has = models.has(shape, quantized)
    needed = positions * shape.position_bytes + _SLACK_BYTES + (0 if has else shape.weight_bytes)
    if not has:
        models.clear()
    if bench.free_bytes() < needed:
        bench.emit(
            Row(bench.task, f"skipped: needs {needed / 1e9:.0f} GB", note=f"{bench.free_bytes() / 1e9:.0f} free")
        )
        return False
    return True


def _rival(bench: Bench, models: _Models) -> None:
    models.clear()
    rival.decode(bench, LLAMA_8B, 64, CONTEXT)
