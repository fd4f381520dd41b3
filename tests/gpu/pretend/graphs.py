"""CUDA graphs: what is launched while one is captured is not computed then, but at each replay, on the same memory and
with the same numbers."""

import gc
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from tests.gpu.pretend.gpu import Gpu
from tests.gpu.pretend.streams import Memory, Stream, Work


@dataclass(frozen=True, slots=True)
class _Node:
    work: Work
    outside: tuple["weakref.ref[Memory]", ...]
    """Memory that was there before the graph, and has to be there whenever it is replayed"""


@dataclass(slots=True)
class Capture:
    """A graph on its way."""

    stream: Stream
    mode: str
    thread: int = field(default_factory=threading.get_ident)
    nodes: list[_Node] = field(default_factory=list)
    made: "dict[weakref.ref[Memory], torch.Tensor]" = field(default_factory=dict)
    """Memory that was taken meanwhile"""

    def add(self, work: Work, memories: Iterable[Memory]) -> None:
        references = (weakref.ref(memory) for memory in memories)
        self.nodes.append(_Node(work, tuple(reference for reference in references if reference not in self.made)))

    def take(self, memory: Memory, numbers: torch.Tensor) -> None:
        self.made[weakref.ref(memory)] = numbers

    def forbids_waiting(self) -> bool:
        return self.mode == "global" or self.thread == threading.get_ident()


class Graph:
    """`torch.cuda.CUDAGraph`."""

    gpu: ClassVar[Gpu]

    def __init__(self, keep_graph: bool = False) -> None:
        self._nodes: list[_Node] = []
        self._scratch: list[torch.Tensor] = []
        """Memory that was taken and given back within: garbage when a replay begins, for other graphs use it, too"""
        self._pool: object = self

    @property
    def num_nodes(self) -> int:
        return len(self._nodes)

    def capture_begin(self, pool: object = None, capture_error_mode: str = "global") -> None:
        assert self.gpu.capture is None, "one graph at a time"
        assert self.gpu.current_stream is not self.gpu.default_stream, "CUDA graphs must be captured on a side stream"
        self._pool = pool or self
        self.gpu.capture = Capture(self.gpu.current_stream, capture_error_mode)

    def capture_end(self) -> None:
        capture, self.gpu.capture = self.gpu.capture, None
        assert capture is not None
        self._nodes = capture.nodes
        self._scratch = [numbers for reference, numbers in capture.made.items() if reference() is None]

    def replay(self) -> None:
        lost = [node.work.where for node in self._nodes if any(memory() is None for memory in node.outside)]
        self.gpu.num_replays += 1
        assert not lost, f"a graph is replayed whose memory was given back: {lost[0]}"
        for numbers in self._scratch:
            self.gpu.launch("replay", lambda numbers=numbers: spoil(numbers), ())
        for node in self._nodes:
            memories = [memory for reference in node.outside if (memory := reference()) is not None]
            self.gpu.launch(node.work.where, node.work.run, memories)

    def pool(self) -> object:
        return self._pool

    def reset(self) -> None:
        self._nodes, self._scratch = [], []


class capturing:  # noqa: N801 as torch.cuda.graph is
    """`torch.cuda.graph`."""

    gpu: ClassVar[Gpu]

    def __init__(
        self, cuda_graph: Graph, pool: object = None, stream: Stream | None = None, capture_error_mode: str = "global"
    ) -> None:
        self._graph, self._begin = cuda_graph, (pool, capture_error_mode)
        self._on = self.gpu.on(self.gpu.Stream() if stream is None else stream)

    def __enter__(self) -> None:
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()
        self._on.__enter__()
        self._graph.capture_begin(*self._begin)

    def __exit__(self, *exception: object) -> None:
        self._graph.capture_end()
        self._on.__exit__(None, None, None)


def spoil(numbers: torch.Tensor) -> None:
    """Make all memory of a tensor of the CPU what nobody has written: NaN, or numbers that are far too large."""
    raw = torch.empty(0, dtype=torch.uint8, device="cpu").set_(numbers.untyped_storage())
    is_float = numbers.dtype.is_floating_point
    raw.fill_(0xFF if is_float else 1 if numbers.dtype is torch.bool else 0x7F)
