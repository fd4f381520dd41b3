"""A device that computes launched steps when it must: it reads and writes what its memory is by then.

Whoever lets go of what a launched step uses gets wrong tokens, and `check` says so at once.
"""

from collections import Counter, deque
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch

from engine.batch import Batch
from engine.blocks import BlockPool
from engine.sampled import Sampled
from engine.sequence import Sequence, SequenceId, TokenLogprobs
from engine.steps import Pending
from tests.custody.arithmetic import Arithmetic, Memory, P, next_token


@dataclass(frozen=True, slots=True)
class Row:
    """What a sampler has of one row at the launch of its step."""

    sequence: Sequence
    index: int
    """The number of the token in its answer"""
    counts: Counter[int]
    """How often the answer has each token; as it is drawn, also those that the host did not know at the launch"""


Draw = Callable[[Many[int], Row], tuple[int, TokenLogprobs | None]]
"""A token from the KV before it."""


def plainly(rows: Many[int], _: Row) -> tuple[int, TokenLogprobs | None]:
    return next_token(rows), None


@dataclass(eq=False)
class LateStep:
    """A launched step."""

    device: "LateDevice"
    batch: Batch
    before: "LateStep | None"
    rows: list[Row]
    users: list[tuple[SequenceId, tuple[int, ...]]]
    """Who has a share of it, and the blocks that hold its positions"""
    sampled: Sampled | None = None

    @property
    def token_ids(self) -> torch.Tensor:
        assert self.sampled is not None
        return torch.tensor(self.sampled.token_ids)

    def collect(self) -> Sampled:
        return self.device.collect(self)


class LateDevice:
    """`Launch` of `engine/steps.py`."""

    def __init__(
        self,
        memory: Memory,
        pool: Callable[[], BlockPool[SequenceId]],
        draw: Draw = plainly,
        before_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.num_continued = 0
        """Steps that began with tokens which nobody had seen."""
        self.order: list[str] = []
        """"launch" and "collect", as they came."""
        self._model = Arithmetic(memory)
        self._pool = pool
        self._draw = draw
        self._before_step = before_step
        self._launched: deque[LateStep] = deque()

    def __call__(self, batch: Batch, before: Pending | None) -> LateStep:
        assert before is None or before is self._launched[-1], "it continues another than the step before"
        assert len(self._launched) < 2, "three steps at once"
        assert isinstance(before, LateStep | None)
        self.order.append("launch")
        self.num_continued += batch.continues is not None
        named = zip(batch.sampled, batch.indices, strict=True)
        for sequence, index in zip(batch.sampled, batch.indices, strict=True):
            assert index == sequence.num_output or not sequence.looks_back, f"{sequence.id} cannot look back"
        rows = [Row(sequence, index, sequence.output_counts.copy()) for sequence, index in named]
        users = [self._user(batch, s) for s in range(len(batch.context_lens))]
        self._launched.append(step := LateStep(self, batch, before, rows, users))
        self.check()
        return step

    def get_on(self) -> None:
        """Compute the first step that is not computed, if there is one."""
        step = next((step for step in self._launched if step.sampled is None), None)
        if step is not None:
            self._before_step()
            step.sampled = self._compute(step)

    def collect(self, step: LateStep) -> Sampled:
        self.order.append("collect")
        assert step is self._launched[0], "steps are collected in the order of their launches"
        while step.sampled is None:
            self.get_on()
        self._launched.popleft()
        step.before = None
        return step.sampled

    def check(self) -> None:
        """Assert that whoever has a share of a launched step still holds the blocks of its positions."""
        pool = self._pool()
        for step in self._launched:
            for user, blocks in step.users:
                held = tuple(pool.blocks_of(user))[: len(blocks)]
                assert held == blocks, f"a launched step uses {blocks} for {user}, who holds {held} by now"
            for slot in step.batch.slots.tolist():
                assert pool._ref_counts[slot // P] == 1, f"a launched step writes block {slot // P}, which is shared"

    def _user(self, batch: Batch, s: int) -> tuple[SequenceId, tuple[int, ...]]:
        """Whose rows these are: nobody else owns the block that the last of them is written to."""
        num_blocks = -(-int(batch.context_lens[s]) // P)
        blocks = tuple(batch.block_tables[s, :num_blocks].tolist())
        pool = self._pool()
        (user,) = (owner for owner in pool.owners if blocks[-1] in pool.blocks_of(owner))
        return user, blocks

    def _compute(self, step: LateStep) -> Sampled:
        token_ids = step.batch.token_ids.tolist()
        if step.batch.continues is not None:
            assert step.before is not None
            assert step.before.sampled is not None
            before = step.before.sampled.token_ids
            for i, row in enumerate(step.batch.continues.tolist()):
                token_ids[i] = before[row] if row >= 0 else token_ids[i]
            for each, sample in zip(step.rows, step.batch.continued_samples or (), strict=True):
                each.counts.update([before[sample]] if sample >= 0 else [])
        return drawn(self._model.compute(step.batch, token_ids), step.rows, self._draw)


def drawn(kv: Many[Many[int]], rows: Many[Row], draw: Draw) -> Sampled:
    """The tokens of one step."""
    outcome = [draw(before, row) for before, row in zip(kv, rows, strict=True)]
    logprobs = tuple(each for _, each in outcome)
    return Sampled([token for token, _ in outcome], logprobs if any(logprobs) else None)
