"""Decode steps and a prompt's step of a `ComposedModel`: their inputs, and how they are run and timed."""

import statistics
from dataclasses import dataclass

import numpy as np
import torch

from bench.gpu_parts.bench import Bench, elapsed_ms, timed
from bench.gpu_parts.composed import ComposedModel, Space
from engine.kernels.gpu.candidates import Scratch
from engine.kernels.gpu.decode_attention import decode_attention
from engine.kernels.gpu.prefill_attention import choose_tile, list_tiles, prefill_attention
from engine.kernels.gpu.runs import Workspace, choose_splits
from engine.kernels.gpu.sample import sample

BLOCK_TOKENS = 16
TEMPERATURE, TOP_P = 0.8, 0.95


class Cache:
    """A pool of random numbers, and blocks anywhere in it for sequences of up to `max_context` positions."""

    def __init__(self, model: ComposedModel, num_sequences: int, max_context: int) -> None:
        shape, blocks = model.shape, -(-max_context // BLOCK_TOKENS)
        layout = (num_sequences * blocks, shape.num_layers, 2, shape.num_kv_heads, BLOCK_TOKENS, shape.head_dim)
        self.pool = torch.empty(layout, dtype=model.dtype)
        for layer in range(shape.num_layers):
            self.pool[:, layer].normal_()
        self.tables = torch.randperm(len(self.pool)).to(torch.int32).view(num_sequences, blocks)

    def slots(self, positions: torch.Tensor) -> torch.Tensor:
        """Of one position `[S]` of each sequence; no kernel waits for the host."""
        blocks = self.tables.gather(1, (positions // BLOCK_TOKENS)[:, None])[:, 0].long()
        return blocks * BLOCK_TOKENS + positions % BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Pace:
    """Of steps one after another."""

    step_ms: float
    """From the begin of one to the begin of the next"""
    gap_share: float
    """Of the time, in which no step was computed"""


class DecodeLoop:
    """Every sequence has `context` positions at first, and one more with each step."""

    def __init__(self, bench: Bench, model: ComposedModel, cache: Cache, num_sequences: int, context: int) -> None:
        self._bench, self._model, self._cache, self._context = bench, model, cache, context
        shape, rows = model.shape, num_sequences
        self.tokens = torch.randint(0, shape.vocab_size, (rows,))
        self._positions = torch.empty(rows, dtype=torch.int64)
        self._slots, self._indices = torch.empty_like(self._positions), torch.empty_like(self._positions)
        self._lengths = torch.empty(rows, dtype=torch.int32)
        self._space = Space.allocate(model, rows)
        self.logits = torch.empty(rows, shape.vocab_size, dtype=torch.float32)
        self._scratch = Scratch.of(rows, shape.vocab_size, bench.device)
        most = cache.tables.shape[1] * BLOCK_TOKENS
        self._splits = choose_splits(rows, shape.num_kv_heads, most, bench.num_cores())
        self._workspace = Workspace.allocate(rows * self._splits, shape.num_heads, shape.head_dim, bench.device)
        self._filters = (
            torch.full((rows,), TEMPERATURE, dtype=torch.float64),
            torch.zeros(rows, dtype=torch.int64),
            torch.full((rows,), TOP_P, dtype=torch.float64),
            torch.zeros(rows, dtype=torch.float64),
            torch.randint(0, 1 << 62, (rows,)),
        )
        self.rewind()

    def rewind(self) -> None:
        """To where the next token is at position `context`."""
        self._positions.fill_(self._context)
        self._lengths.fill_(self._context + 1)
        self._indices.zero_()
        self._slots.copy_(self._cache.slots(self._positions))

    def step(self) -> None:
        """One token of every sequence, sampled into `tokens`; then everything is as the next step needs it."""
        pool = self._cache.pool
        self._model.forward(self.tokens, self._positions, self._slots, pool, self._space, self._attend, self.logits)
        sample(self.logits, *self._filters, self._indices, self._scratch, self.tokens)
        for counter in (self._positions, self._lengths, self._indices):
            counter.add_(1)
        self._slots.copy_(self._cache.slots(self._positions))

    def _attend(self, queries: torch.Tensor, layer: int, out: torch.Tensor) -> None:
        tables, lengths = self._cache.tables, self._lengths
        decode_attention(queries, self._cache.pool, layer, tables, lengths, out, self._workspace, self._splits)

    def pace(self, num_steps: int) -> Pace:
        """Of as many steps, behind each of which the host reads the tokens of the one before."""
        self.step()
        self._bench.synchronize()
        if self._bench.device.type != "cuda":
            self.rewind()
            return Pace(self._bench.median_ms([self.step]), 0.0)
        self.rewind()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        for _ in range(3):
            graph.replay()
        self.rewind()
        return _pace(graph, self.tokens, num_steps)


def _pace(graph: torch.cuda.CUDAGraph, tokens: torch.Tensor, num_steps: int) -> Pace:
    heard = torch.empty(num_steps, len(tokens), dtype=torch.int64, device="cpu", pin_memory=True)
    copied = [torch.cuda.Event() for _ in range(num_steps)]  # type: ignore[no-untyped-call]
    steps = []
    for number in range(num_steps):
        steps.append(timed(graph.replay))
        heard[number].copy_(tokens, non_blocking=True)
        copied[number].record()
        if number:
            copied[number - 1].synchronize()
            heard[number - 1].tolist()
    inside = elapsed_ms(steps)
    whole = elapsed_ms([(steps[0][0], steps[-1][1])])[0]
    return Pace(whole / num_steps, max(0.0, 1 - sum(inside) / whole))


class Prefill:
    """The step of one prompt without a cached prefix."""

    def __init__(self, model: ComposedModel, cache: Cache, tokens: torch.Tensor) -> None:
        shape, rows = model.shape, len(tokens)
        self._model, self._cache, self._tokens = model, cache, tokens
        self._space = Space.allocate(model, rows)
        self._positions = torch.arange(rows)
        blocks = cache.tables[0].long().repeat_interleave(BLOCK_TOKENS)[:rows]
        self._slots = blocks * BLOCK_TOKENS + self._positions % BLOCK_TOKENS
        starts, lengths = np.array([0, rows], np.int32), np.array([rows], np.int32)
        group = shape.num_heads // shape.num_kv_heads
        tiles = list_tiles(starts, lengths, 0, group, choose_tile(cache.pool).block_m)
        self._rows = torch.tensor(starts), torch.tensor(lengths), torch.tensor(tiles)
        self.logits = torch.empty(1, shape.vocab_size, dtype=torch.float32)

    def step(self) -> None:
        pool = self._cache.pool
        self._model.forward(self._tokens, self._positions, self._slots, pool, self._space, self._attend, self.logits)

    def _attend(self, queries: torch.Tensor, layer: int, out: torch.Tensor) -> None:
        prefill_attention(queries, self._cache.pool, layer, self._cache.tables[:1], *self._rows, out)

    def median_ms(self, bench: Bench, repeats: int = 5) -> float:
        """Launched kernel by kernel, as an engine does for what it has no graph of."""
        if bench.device.type != "cuda":
            return bench.median_ms([self.step])
        self.step()
        return statistics.median(elapsed_ms([timed(self.step) for _ in range(repeats)]))
