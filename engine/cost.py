"""What a worker's steps take: a few measured numbers, and every prediction made from them. Pure, standard library only.

    prompt step    table(tokens) + chunk_context_s · tokens · context     the table is interpolated, and never descends
    decode step    decode_s + decode_sequence_s · B + decode_context_s · C      B sequences with C positions together
    both in one    their sum, less decode_s: weights are read once

Seconds, tokens and positions throughout. Measured by `engine.profile`, used by workers and by the router.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from protos import worker_pb2 as pb

MAX_TIMES = 4.0


@dataclass(frozen=True, slots=True)
class StepWork:
    """What one step computes."""

    prompt_tokens: int = 0
    prompt_context: float = 0
    """Positions before the prompt tokens of this step, a mean over them."""
    num_sequences: int = 0
    """Those that decode: one token each."""
    context_tokens: int = 0
    """Positions of all of them together."""


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost model of one worker."""

    chunk_tokens: tuple[int, ...]
    """Ascending, at least one."""
    chunk_s: tuple[float, ...]
    """For each of `chunk_tokens`; never descending."""
    chunk_context_s: float = 0.0
    decode_s: float = 0.0
    decode_sequence_s: float = 0.0
    decode_context_s: float = 0.0

    @classmethod
    def flat(cls, tokens_per_s: float, decode_s: float = 0.0) -> "Costs":
        """For a worker of which only speeds are known: prompt tokens cost the same whatever their number."""
        return cls((1,), (1 / tokens_per_s,), decode_s=decode_s)

    @classmethod
    def from_proto(cls, profile: pb.Profile) -> "Costs | None":
        """None for a profile that is no use: nothing measured, or columns that make no sense."""
        tokens, seconds = tuple(profile.chunk_tokens), tuple(profile.chunk_s)
        slopes = (
            profile.chunk_context_s,
            profile.decode_s,
            profile.decode_sequence_s,
            profile.decode_context_s,
        )
        sound = all(0 <= value < float("inf") for value in (*seconds, *slopes))
        ordered = all(a < b for a, b in zip(tokens, tokens[1:], strict=False)) and list(seconds) == sorted(seconds)
        if not sound or not ordered or not tokens or len(tokens) != len(seconds) or tokens[0] < 1 or not seconds[0]:
            return None
        return cls(tokens, seconds, *slopes)

    def to_proto(self) -> pb.Profile:
        return pb.Profile(
            chunk_tokens=self.chunk_tokens,
            chunk_s=self.chunk_s,
            chunk_context_s=self.chunk_context_s,
            decode_s=self.decode_s,
            decode_sequence_s=self.decode_sequence_s,
            decode_context_s=self.decode_context_s,
        )

    def slower(self, times: float) -> "Costs":
        """The same worker while everything takes so many times as long."""
        return replace(
            self,
            chunk_s=tuple(seconds * times for seconds in self.chunk_s),
            chunk_context_s=self.chunk_context_s * times,
            decode_s=self.decode_s * times,
            decode_sequence_s=self.decode_sequence_s * times,
            decode_context_s=self.decode_context_s * times,
        )

    def table_s(self, num_tokens: int) -> float:
        """A step of `num_tokens` prompt tokens with no context before them.

        Below the table's first row it takes as long as that row, for a step reads all weights; beyond the last row
        tokens cost what they cost on average there.
        """
        if num_tokens <= 0:
            return 0.0
        sizes, seconds = self.chunk_tokens, self.chunk_s
        index = bisect_left(sizes, num_tokens)
        if index == 0:
            return seconds[0]
        if index == len(sizes):
            return seconds[-1] * num_tokens / sizes[-1]
        share = (num_tokens - sizes[index - 1]) / (sizes[index] - sizes[index - 1])
        return seconds[index - 1] + share * (seconds[index] - seconds[index - 1])

    def prompt_step_s(self, num_tokens: int, context: float) -> float:
        """A step of one prompt's `num_tokens` after `context` positions."""
        return self.table_s(num_tokens) + self.chunk_context_s * num_tokens * context

    def decode_step_s(self, num_sequences: int, context_tokens: int) -> float:
        """A step of `num_sequences` tokens, of sequences with `context_tokens` positions together; 0 for nobody."""
        if not num_sequences:
            return 0.0
        return self.decode_s + self.decode_sequence_s * num_sequences + self.decode_context_s * context_tokens

    def step_s(self, work: StepWork) -> float:
        """A step that computes prompt tokens, decodes, or does both."""
        decode_s = self.decode_step_s(work.num_sequences, work.context_tokens)
        if not work.prompt_tokens:
            return decode_s
        chunk_s = self.prompt_step_s(work.prompt_tokens, work.prompt_context)
        return chunk_s if not decode_s else max(chunk_s + decode_s - self.decode_s, decode_s)

    def prefill_s(self, num_tokens: int, context: int, step_tokens: int) -> float:
        """A prompt's `num_tokens` after `context` cached positions, `step_tokens` a step, with nobody else there."""
        full, rest = divmod(num_tokens, step_tokens)
        pairs = num_tokens * context + step_tokens * step_tokens * full * (full - 1) // 2 + rest * full * step_tokens
        return full * self.table_s(step_tokens) + self.table_s(rest) + self.chunk_context_s * pairs


def chunks(num_tokens: int, context: int, step_tokens: int) -> Iterator[tuple[int, int]]:
    """The steps of one prompt: tokens, and positions before them."""
    end = context + num_tokens
    for start in range(context, end, step_tokens):
        yield min(step_tokens, end - start), start


class Slowdown:
    """What steps take against the model's prediction, a moving average over busy time.

    One step counts for `MAX_TIMES` its prediction at most: beyond that it was interrupted, which says nothing about
    the next one.
    """

    def __init__(self, costs: Costs | None, own_costs: Costs | None = None, *, half_life_s: float = 2.0) -> None:
        """`own_costs` are those of a worker that may borrow CPUs, on its own alone."""
        self.alone = False
        """Whether the steps now noted have the worker's own CPUs only."""
        self._costs = costs
        self._own_costs = own_costs or costs
        self._half_life_s = half_life_s
        self._measured_s = 0.0
        self._predicted_s = 0.0

    def add(self, work: StepWork, seconds: float) -> None:
        """Note that a step of this `work` took `seconds`."""
        costs = self._own_costs if self.alone else self._costs
        if costs is None:
            return
        predicted_s = costs.step_s(work)
        measured_s = min(seconds, MAX_TIMES * predicted_s)
        keep = 0.5 ** (measured_s / self._half_life_s)
        self._measured_s = self._measured_s * keep + measured_s
        self._predicted_s = self._predicted_s * keep + predicted_s

    @property
    def times(self) -> float:
        """1 is as measured at the start; 0 until there is a measurement, or where there is nothing to compare with."""
        return self._measured_s / self._predicted_s if self._predicted_s else 0.0


def work_of(spans: Iterable[tuple[int, int]]) -> StepWork:
    """The work of a step, from start and end of every chunk; a chunk of one token decodes."""
    prompt_tokens = pairs = num_sequences = context_tokens = 0
    for start, end in spans:
        if end - start == 1:
            num_sequences += 1
            context_tokens += end
        else:
            prompt_tokens += end - start
            pairs += (end - start) * start
    return StepWork(prompt_tokens, pairs / prompt_tokens if prompt_tokens else 0, num_sequences, context_tokens)
