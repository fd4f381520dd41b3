"""How fast this worker is: a few steps of the real model on the real pool, timed at the start and fitted to `Costs`.

Steps of every kind run in turns, cheap ones first, for as long as the time lasts; of each kind the fastest counts, for
whatever else the machine does only adds to it. Attention reads blocks that were written before (memory never written
is one page of zeros, which costs nothing to read); they are cleared at the end. No scheduler takes part, so nothing can
stay behind in the pool's books or in the prefix cache.
"""

import itertools
import logging
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.batch import Batch, Chunk
from engine.cost import Costs
from engine.sequence import SamplingParams, SequenceId
from engine.sequence import Sequence as Made
from engine.steps import StepRunner, StepSampler

log = logging.getLogger(__name__)

MAX_ROUNDS = 5
CONTEXT_CHUNK = 64
"""Prompt tokens of the step that shows what context costs a prompt."""
MAX_POSITIONS = 4096
"""Of context, in one step: enough to see its cost, little enough to be quick."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of step: each of `num_sequences` computes `num_tokens` after `context` positions."""

    num_tokens: int
    context: int
    num_sequences: int = 1

    @property
    def size(self) -> int:
        """Rows of its matrix products."""
        return self.num_tokens * self.num_sequences

    def num_blocks(self, block_tokens: int) -> int:
        """Of each sequence."""
        return -(-(self.context + self.num_tokens) // block_tokens)


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest step that this worker will run."""

    max_context: int
    max_step_tokens: int
    max_sequences: int


Times = dict[Kind, float]
"""Seconds, by kind."""


def measure(runner: StepRunner, sampler: StepSampler, limits: Limits, budget_s: float) -> Costs:
    """Time steps for about `budget_s`: at least one, and none that is expected to end later. The pool must be idle."""
    cache = runner.cache
    kinds = plan(limits, cache.num_blocks * cache.block_tokens, cache.block_tokens)
    touched = max(kind.num_sequences * kind.num_blocks(cache.block_tokens) for kind in kinds)
    began = time.perf_counter()
    cache.write_ones(touched)
    try:
        times = time_kinds(kinds, lambda kind: _step_s(runner, sampler, kind), began + budget_s)
    finally:
        cache.clear(touched)
    costs = fit(times)
    log.info(
        "measured in %.1f s: %d prompt tokens in %.1f ms, decode step %.2f + %.2f ms a sequence, fit within %.0f %%",
        time.perf_counter() - began,
        costs.chunk_tokens[-1],
        costs.chunk_s[-1] * 1e3,
        costs.decode_s * 1e3,
        costs.decode_sequence_s * 1e3,
        residual(costs, times) * 100,
    )
    return costs


def plan(limits: Limits, capacity: int, block_tokens: int) -> list[Kind]:
    """The kinds of steps to time, in order, as far as limits and pool (`capacity` positions) allow; one at least."""
    short = min(block_tokens, limits.max_context) - 1
    long = min(MAX_POSITIONS // 8, capacity // 8 // block_tokens * block_tokens, limits.max_context) - 1
    before = min(MAX_POSITIONS // 2, capacity - CONTEXT_CHUNK, limits.max_context - CONTEXT_CHUNK)
    wanted = [
        Kind(1, short),
        Kind(16, 0),
        Kind(1, short, 8),
        Kind(CONTEXT_CHUNK, 0),
        Kind(1, max(long, short), 8),
        Kind(CONTEXT_CHUNK, max(before, 0)),
        Kind(1, short, 32),
        Kind(256, 0),
        Kind(limits.max_step_tokens, 0),
    ]
    return list(dict.fromkeys(kind for kind in wanted if _fits(kind, limits, capacity, block_tokens)))


def _fits(kind: Kind, limits: Limits, capacity: int, block_tokens: int) -> bool:
    """Whether a worker of these limits can come to run such a step."""
    return (
        kind.context + kind.num_tokens <= limits.max_context
        and kind.num_tokens <= limits.max_step_tokens
        and kind.num_sequences <= limits.max_sequences
        and kind.num_sequences * kind.num_blocks(block_tokens) * block_tokens <= capacity
    )


def time_kinds(kinds: Sequence[Kind], step_s: Callable[[Kind], float], until_s: float) -> Times:
    """The fastest of each kind over some rounds; `until_s` of `time.perf_counter` ends it, but not before one step."""
    times: Times = {}
    for kind in itertools.chain.from_iterable(itertools.repeat(kinds, MAX_ROUNDS)):
        if times and time.perf_counter() + _expected_s(kind, times) > until_s:
            continue
        times[kind] = min(step_s(kind), times.get(kind, float("inf")))
    return times


def fit(times: Times) -> Costs:
    """The model that comes closest, by relative error, with no negative coefficient."""
    alone = {
        k.num_tokens: s for k, s in times.items() if k.num_sequences == 1 and (k.context == 0 or k.num_tokens == 1)
    }
    sizes = sorted(alone)
    seconds = list(itertools.accumulate((alone[size] for size in sizes), max))
    decodes = [(kind, s) for kind, s in times.items() if kind.num_tokens == 1]
    rows = np.array([(1.0, k.num_sequences, k.num_sequences * (k.context + 1)) for k, _ in decodes])
    decode_s, sequence_s, context_s = _non_negative(rows, np.array([s for _, s in decodes]))
    return Costs(tuple(sizes), tuple(seconds), _context_slope(times, alone), decode_s, sequence_s, context_s)


def residual(costs: Costs, times: Times) -> float:
    """The largest relative error of the model at what was measured."""
    return max(abs(_predicted_s(costs, kind) / seconds - 1) for kind, seconds in times.items())


def _predicted_s(costs: Costs, kind: Kind) -> float:
    if kind.num_tokens == 1:
        return costs.decode_step_s(kind.num_sequences, kind.num_sequences * (kind.context + 1))
    return costs.prompt_step_s(kind.num_tokens, kind.context)


def _context_slope(times: Times, alone: dict[int, float]) -> float:
    for kind, seconds in times.items():
        if kind.num_tokens > 1 and kind.context and kind.num_tokens in alone:
            return max(seconds - alone[kind.num_tokens], 0.0) / (kind.num_tokens * kind.context)
    return 0.0


def _non_negative(rows: np.ndarray, seconds: np.ndarray) -> tuple[float, float, float]:
    """Least squares of relative errors over three columns, the first always used, others only if not negative."""
    best, best_error = (float(seconds.min()), 0.0, 0.0), float("inf")
    for used in ([0, 1, 2], [0, 1], [0, 2], [0]):
        if len(used) > len(seconds):
            continue
        solution = np.zeros(3)
        scaled = rows[:, used] / seconds[:, None]
        solution[used] = np.linalg.lstsq(scaled, np.ones(len(seconds)), rcond=None)[0]
        error = float(np.square(rows @ solution / seconds - 1).sum())
        if (solution >= 0).all() and error < best_error:
            best, best_error = (float(solution[0]), float(solution[1]), float(solution[2])), error
    return best


def _expected_s(kind: Kind, times: Times) -> float:
    """What a step of this kind will take: as it did; else as the largest so far, in proportion if that is smaller."""
    if kind in times:
        return times[kind]
    largest = max(times, key=lambda done: done.size)
    return times[largest] * max(1.0, kind.size / largest.size if largest.size > 1 else 1.0)


def _step_s(runner: StepRunner, sampler: StepSampler, kind: Kind) -> float:
    """Run one such step; seconds from chunks to tokens."""
    chunks = made_up(kind, runner.cache.block_tokens)
    began = time.perf_counter()
    batch = Batch.build(chunks, runner.cache.block_tokens)
    sampler(runner(batch), batch.sampled)
    return time.perf_counter() - began


def made_up(kind: Kind, block_tokens: int) -> list[Chunk]:
    """One such step; its sequences hold the pool's first blocks, one after the other, none shared."""
    length = kind.context + kind.num_tokens
    num_blocks = kind.num_blocks(block_tokens)
    params = SamplingParams(max_tokens=1, seed=0, temperature=0.0)
    chunks = []
    for index in range(kind.num_sequences):
        sequence = Made.of(SequenceId("measured"), [0] * length, params)
        sequence.blocks = array("i", range(index * num_blocks, (index + 1) * num_blocks))
        chunks.append(Chunk(sequence, kind.context, length))
    return chunks
