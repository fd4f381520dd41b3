"""Ranks of torch.distributed whose tensors are in the host's memory: sums and logits go through gloo, over loopback.

Every rank gets all partial results and adds them in the order of ranks: gloo's own sum adds each piece of memory in
another order, so that a row's result would depend on how many rows there are. Waiting for the others has a limit on
rank 0 alone: it is the one that decides that another is lost, and the others end when it does.
"""

import os
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist

from engine.errors import ConfigError
from engine.gloo import LOOPBACK, Work, first_line, gloo_group
from engine.tp.ranks import RankFailed
from engine.tp.split import joined, widened

MAKE_LIMIT_S = 300.0
"""That ranks may wait for each other as the group is made; all of them have loaded their weights by then."""
NEVER = timedelta(days=1)
"""gloo's own limit: who waits with another one says so with each call."""


class _ProcessGroup(Protocol):
    def allgather(self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor]) -> Work: ...
    def gather(self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], opts: object) -> Work: ...
    def broadcast(self, tensors: list[torch.Tensor], opts: object) -> Work: ...
    def allreduce(self, tensors: list[torch.Tensor], opts: object) -> Work: ...


class _Begin(Protocol):
    def __call__(self, group: _ProcessGroup) -> Work: ...


class GlooRanks:
    """One rank's side of the group; `join` comes before everything else."""

    def __init__(self, rank: int, size: int) -> None:
        """Raises ConfigError where torch has no gloo."""
        if not dist.is_gloo_available():
            raise ConfigError("tensor_parallel needs gloo, which this torch does not have", field="tensor_parallel")
        self.rank = rank
        self.size = size
        self.limit_s: float | None = None
        """Seconds that others may keep this rank waiting; None is for ever."""
        self._to_lead, self._from_lead = dist.GatherOptions(), dist.BroadcastOptions()
        self._to_lead.rootRank = self._from_lead.rootRank = 0
        self._least = dist.AllreduceOptions()
        self._least.reduceOp = dist.ReduceOp(dist.ReduceOp.MIN)
        self._nothing = torch.zeros(1)
        self._room = torch.empty(0)
        self._group: _ProcessGroup | None = None

    def join(self, store: dist.Store) -> None:  # type: ignore[name-defined]
        """Return once all ranks have done the same with the same store. Raises RankFailed."""
        store.set_timeout(timedelta(seconds=MAKE_LIMIT_S))
        try:
            self._group = gloo_group(store, self.rank, self.size, host=LOOPBACK, limit=NEVER)
        except RuntimeError as error:
            raise RankFailed(f"no group of {self.size} ranks: {first_line(error)}") from None

    def limit(self, seconds: float) -> None:
        """From now on others may keep this rank waiting for so long."""
        self.limit_s = seconds

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        mine = partial if partial.numel() else self._nothing  # with an empty one gloo would not wait for anybody
        parts = self._room_for(mine)
        self._wait(lambda group: group.allgather([parts], [mine]))
        if partial.numel():
            torch.add(parts[0], parts[1], out=partial)
            for part in parts[2:]:
                partial.add_(part)
        return partial

    def gather(self, part: torch.Tensor, num_columns: int) -> torch.Tensor:
        if not len(part):  # nobody samples, as every rank knows
            return part.new_empty(0, num_columns)
        part = widened(part, num_columns, self.size)
        parts = self._room_for(part) if self.rank == 0 else []
        self._wait(lambda group: group.gather([parts] if parts else [], [part], self._to_lead))
        if not parts:
            return part
        return joined(parts, num_columns, self.size)

    def spread(self, numbers: torch.Tensor) -> None:
        self._wait(lambda group: group.broadcast([numbers], self._from_lead))

    def least(self, number: int) -> int:
        found = torch.tensor([number], dtype=torch.int64, device="cpu")
        self._wait(lambda group: group.allreduce([found], self._least))
        return int(found)

    def _room_for(self, part: torch.Tensor) -> list[torch.Tensor]:
        """A tensor like `part` for each rank, in memory that the next call takes again."""
        count = self.size * part.numel()
        with torch.inference_mode(mode=False):  # what is made in that mode cannot be written outside of it
            if len(self._room) < count:
                self._room = torch.empty(count)
            return list(self._room[:count].view(self.size, *part.shape).unbind())

    def _wait(self, begin: _Begin) -> None:
        assert self._group is not None, "join comes first"
        try:
            work = begin(self._group)
            if self.limit_s is None:
                work.wait()
            else:
                work.wait(timedelta(seconds=self.limit_s))
        except RuntimeError as error:
            raise RankFailed(f"the other ranks do not answer: {first_line(error)}") from None


def meeting_place() -> int:
    """A descriptor of memory where the ranks of one group find each other (`store_in`): no port, and no file's name."""
    return os.memfd_create("tandem-ranks", os.MFD_CLOEXEC)


def store_in(descriptor: int, size: int) -> dist.Store:  # type: ignore[name-defined]
    """The store for `join`, in memory that all `size` ranks have a descriptor of. It must stay open while the store is
    in use."""
    return dist.FileStore(f"/proc/self/fd/{descriptor}", size)  # type: ignore[attr-defined]
