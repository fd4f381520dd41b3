"""CUDA graphs of steps in which everybody decodes: one for each of a few numbers of rows, which others are padded to.

A small step costs the host more than the GPU, by an estimate: ten kernels a layer, each of which Python launches in 5
to 20 microseconds. A captured step is one launch. Where there is no CUDA the same function is simply called, so that
all but the capture itself can be tested.
"""

from bisect import bisect_left
from collections.abc import Callable

import torch

_FINE, _STEP = 16, 16
"""Buckets are powers of two up to the one, and then its multiples: padding costs at most 15 rows."""


def buckets_up_to(most: int) -> tuple[int, ...]:
    """Numbers of rows that steps are padded to, the last not below `most`."""
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(sizes[-1] * 2 if sizes[-1] < _FINE else sizes[-1] + _STEP)
    return tuple(sizes)


class DecodeGraphs:
    """`step(bucket)` for every bucket: it reads and writes fixed memory, and returns logits `[bucket, V]`."""

    def __init__(self, step: Callable[[int], torch.Tensor], most: int, device: torch.device) -> None:
        self.buckets = buckets_up_to(most)
        self._step = step
        self._device = device
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}

    def bucket(self, rows: int) -> int:
        """The smallest that holds so many rows."""
        return self.buckets[bisect_left(self.buckets, rows)]

    def capture(self) -> None:
        """Run the step of every bucket once, which compiles what it needs, and capture it."""
        pool = None
        for bucket in reversed(self.buckets):  # the largest first: the others fit into what it allocated
            self._step(bucket)
            if self._device.type != "cuda":
                continue
            torch.cuda.synchronize(self._device)
            graph = torch.cuda.CUDAGraph()
            # What other threads do meanwhile is no part of it: NCCL's watch asks after events.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                logits = self._step(bucket)
            pool = pool or graph.pool()
            self._captured[bucket] = graph, logits

    def __call__(self, bucket: int) -> torch.Tensor:
        """The logits of what lies in the step's memory now."""
        if bucket not in self._captured:
            return self._step(bucket)
        graph, logits = self._captured[bucket]
        graph.replay()
        return logits
