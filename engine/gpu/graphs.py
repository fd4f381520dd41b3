"""CUDA graphs of steps in which everybody decodes: one for each of a few numbers of rows, which others are padded to.

A small step costs the host more than the GPU, by an estimate: ten kernels a layer, each of which Python launches in 5
to 20 microseconds. A captured step is one launch. Where there is no CUDA the same function is simply called, so that
all but the capture itself can be tested.

A step may be computed in several ways. Which is the fastest depends on the GPU, the model and the number of rows: each
is captured and timed, and the best one stays.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import median

import torch
from triton.errors import TritonError

_FINE, _STEP = 16, 16
"""Buckets are powers of two up to the one, and then its multiples: padding costs at most 15 rows."""


def buckets_up_to(most: int) -> tuple[int, ...]:
    """Numbers of rows that steps are padded to, the last not below `most`."""
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(sizes[-1] * 2 if sizes[-1] < _FINE else sizes[-1] + _STEP)
    return tuple(sizes)


Step = Callable[[int], torch.Tensor]
"""Of a bucket: it reads and writes fixed memory, and returns logits `[bucket, V]`."""

logger = logging.getLogger(__name__)

_REPLAYS = 7
"""By which a way is judged; as many on all ranks."""


class DecodeGraphs:
    """The step of every bucket, in the way that is the fastest there."""

    def __init__(self, ways: Callable[[int], Mapping[str, Step]], most: int, device: torch.device) -> None:
        """`ways` to compute a bucket's step, by name; the first is taken where nothing can be timed."""
        self.buckets = buckets_up_to(most)
        self.ways = ways
        self._device = device
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        """Memory that all graphs share"""
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self.chosen = {bucket: next(iter(ways(bucket))) for bucket in self.buckets}

    def bucket(self, rows: int) -> int:
        """The smallest that holds so many rows."""
        return self.buckets[bisect_left(self.buckets, rows)]

    def capture(self) -> None:
        """Run the step of every bucket once in every way, which compiles what it needs, and capture it."""
        for bucket in reversed(self.buckets):  # the largest first: the others fit into what it allocated
            if self._pool is None:
                self(bucket)
            else:
                self._capture(bucket)
        logger.info("decode steps: %s", ", ".join(f"{bucket} by {name}" for bucket, name in self.chosen.items()))

    def _capture(self, bucket: int) -> None:
        best_ms, ways = float("inf"), self.ways(bucket)
        for name, step in ways.items():
            if not self._runs(name, step, bucket):
                continue
            torch.cuda.synchronize(self._device)
            graph = torch.cuda.CUDAGraph()
            # What other threads do meanwhile is no part of it: NCCL's watch asks after events.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                logits = step(bucket)
            if (ms := _replay_ms(graph) if len(ways) > 1 else 0.0) < best_ms:
                best_ms, self.chosen[bucket], self._captured[bucket] = ms, name, (graph, logits)

    def _runs(self, name: str, step: Step, bucket: int) -> bool:
        """Whether the GPU takes this way; all take the first."""
        try:
            step(bucket)
        except (RuntimeError, TritonError) as error:
            if bucket not in self._captured or isinstance(error, torch.OutOfMemoryError):
                raise
            logger.warning("decode steps of %d are not computed by %s: %s", bucket, name, error)
            return False
        return True

    def __call__(self, bucket: int) -> torch.Tensor:
        """The logits of what lies in the step's memory now."""
        if bucket not in self._captured:
            return self.ways(bucket)[self.chosen[bucket]](bucket)
        graph, logits = self._captured[bucket]
        graph.replay()
        return logits


def _replay_ms(graph: torch.cuda.CUDAGraph) -> float:
    """What the device takes for one, once it is warm."""
    graph.replay()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(_REPLAYS + 1)]  # type: ignore[no-untyped-call]
    for mark in marks[:-1]:
        mark.record()
        graph.replay()
    marks[-1].record()
    marks[-1].synchronize()
    return float(median(begin.elapsed_time(end) for begin, end in pairwise(marks)))
