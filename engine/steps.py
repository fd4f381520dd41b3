"""What a worker needs of an engine, whatever device it computes on: a runner with its pool, and a sampler."""

from collections.abc import Sequence as Rows
from typing import Protocol

import torch

from engine.batch import Batch
from engine.sampled import Sampled
from engine.sequence import Sequence


class Pool(Protocol):
    """The KV blocks that steps read and write."""

    @property
    def num_blocks(self) -> int: ...

    @property
    def block_tokens(self) -> int: ...

    def write_ones(self, num_blocks: int) -> None:
        """Make every number of the first blocks 1, for measuring."""

    def clear(self, num_blocks: int) -> None:
        """Make every number of the first blocks 0."""


class StepRunner(Protocol):
    """Batches to logits."""

    @property
    def cache(self) -> Pool: ...

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The logits of the rows that sample, `[R, V]` float32, on the device; the next step may overwrite them."""
        ...


class StepSampler(Protocol):
    """Logits to tokens."""

    def __call__(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> Sampled:
        """May change `logits`. Returned, the step is over, also if nobody sampled: its keys and values are in the pool,
        where transports may read them from another stream."""
        ...


class Pending(Protocol):
    """The tokens of a launched step, on their way."""

    @property
    def token_ids(self) -> torch.Tensor:
        """`[R]` int64 on the device, in the order of the batch's samples; there when work that follows runs."""
        ...

    def collect(self) -> Sampled:
        """Wait for them."""
        ...


class Launch(Protocol):
    """Has a device compute steps, which the host need not wait for."""

    def __call__(self, batch: Batch, before: Pending | None) -> Pending:
        """Launch a step; steps are computed in the order of their launches. `before` is the step that `batch` continues
        (`Batch.continues`), if it does."""
        ...
