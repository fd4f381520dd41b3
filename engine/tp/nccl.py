"""Ranks with a GPU each: sums and logits go through NCCL, from GPU to GPU, as work of the stream that computes.

The host waits for none of it, so a step with its sums can be captured as a CUDA graph. NCCL adds in an order of its
own, in the type of what it adds: every rank gets the same sum, and another number of rows may round it differently.

A rank that ends is noticed by the process that started it. One that hangs leaves the others' GPUs waiting: outside of
captured steps NCCL's own watch ends the process after `limit`, and the worker says that its step does not end.
"""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from engine.errors import ConfigError
from engine.gloo import first_line
from engine.tp.gloo import MAKE_LIMIT_S
from engine.tp.ranks import RankFailed
from engine.tp.split import joined, widened


class NcclRanks:
    """One rank's side of the group; `join` comes before everything else."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        """Raises ConfigError where torch has no NCCL."""
        if not dist.is_nccl_available():
            message = "tensor_parallel on GPUs needs NCCL, which this torch does not have"
            raise ConfigError(message, field="tensor_parallel")
        self.rank = rank
        self.size = size
        self._device = device
        self._nothing = torch.zeros(1, device=device)
        self._from_lead = dist.BroadcastOptions()
        self._from_lead.rootRank = 0
        self._least = dist.AllreduceOptions()
        self._least.reduceOp = dist.ReduceOp(dist.ReduceOp.MIN)
        self._group: Any = None

    def join(self, store: dist.Store) -> None:  # type: ignore[name-defined]
        """Return once all ranks have done the same with the same store. Raises RankFailed."""
        limit = timedelta(seconds=MAKE_LIMIT_S)
        store.set_timeout(limit)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")  # where it listens as a group is made: all are on this host
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = limit
        try:
            self._group = dist.ProcessGroupNCCL(store, self.rank, self.size, options)
            self._group.eager_connect_single_device(self._device)
            self.least(0)
        except RuntimeError as error:
            raise RankFailed(f"no group of {self.size} ranks: {first_line(error)}") from None

    def limit(self, seconds: float) -> None:
        """From now on others may keep this rank waiting for so long, outside of captured steps."""
        self._group._set_default_timeout(timedelta(seconds=seconds))

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        self._group.allreduce([partial if partial.numel() else self._nothing]).wait()
        return partial

    def gather(self, part: torch.Tensor, num_columns: int) -> torch.Tensor:
        if not len(part):  # nobody samples, as every rank knows
            return part.new_empty(0, num_columns)
        part = widened(part, num_columns, self.size)
        parts = part.new_empty(self.size, *part.shape)
        self._group._allgather_base(parts, part).wait()
        if self.rank:
            return part
        return joined(parts, num_columns, self.size)

    def spread(self, numbers: torch.Tensor) -> None:
        self._group.broadcast([numbers], self._from_lead).wait()

    def least(self, number: int) -> int:
        found = torch.tensor([number], dtype=torch.int64, device=self._device)
        self._group.allreduce([found], self._least).wait()
        return int(found)
