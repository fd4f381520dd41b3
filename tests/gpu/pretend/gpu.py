"""What the device was given, what was waited for, and how much memory there is."""

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np
import torch

from tests.gpu.pretend.streams import ALIGNED_BYTES, Event, Memory, Stream, Work

if TYPE_CHECKING:
    from tests.gpu.pretend.graphs import Capture

MIB = 1 << 20
_HERE = str(Path(__file__).parent)
_CAPTURING = "CUDA error: operation not permitted when stream is capturing"


@dataclass(frozen=True, slots=True)
class Wait:
    """The host waited for the device."""

    what: str
    where: str
    thread: int


class Gpu:
    """What the device has done, and has yet to do."""

    def __init__(self, total_bytes: int, taken_bytes: int, *, is_idle: bool = False) -> None:
        """`taken_bytes` of it are another process's. If it is idle nothing is computed, and all numbers are garbage."""
        self.is_idle = is_idle
        self.lock = threading.RLock()
        self.total_bytes, self.taken_bytes = total_bytes, taken_bytes
        self.allocated = self.peak = self.reserved = 0
        self.num_replays = 0
        self.waits: list[Wait] = []
        self.hazards: list[str] = []
        """What may go wrong on a GPU, though the numbers are right here"""
        self.compiled: dict[object, str] = {}
        """Kernels, each with what Triton compiles it anew for, and where it was first launched"""
        self._pinned: dict[int, int] = {}
        self.capture: Capture | None = None
        self.Stream = type("Stream", (Stream,), {"gpu": self})
        self.Event = type("Event", (Event,), {"gpu": self})
        self.streams: list[Stream] = []
        self.default_stream: Stream = self.Stream()
        self._local = threading.local()

    @property
    def current_stream(self) -> Stream:
        return getattr(self._local, "stream", self.default_stream)

    @contextmanager
    def on(self, stream: Stream | None) -> Iterator[None]:
        """Within it, work is launched on `stream`."""
        before = self.current_stream
        self._local.stream = before if stream is None else stream
        try:
            yield
        finally:
            self._local.stream = before

    def launch(self, what: str, run: Callable[[], object], memories: Iterable[Memory]) -> None:
        work, stream = Work(run, f"{what} in {caller()}"), self.current_stream
        if self.capture is not None and self.capture.stream is stream:
            self.capture.add(work, memories)
        else:
            stream.launch(work, memories)

    def is_capturing_on(self, stream: Stream) -> bool:
        return self.capture is not None and self.capture.stream is stream

    def wait(self, what: str) -> None:
        """The host is about to wait. Work is done by who calls this."""
        if self.capture is not None and self.capture.forbids_waiting():
            raise RuntimeError(f"{_CAPTURING}: {what}")
        self.waits.append(Wait(what, caller(), threading.get_ident()))

    def synchronize(self) -> None:
        """What every stream was given; a test's own look, that does not count as waiting."""
        for stream in list(self.streams):
            stream.finish()

    @contextmanager
    def no_waits(self, *allowed: str) -> Iterator[list[Wait]]:
        """This thread waits within it for nothing, but for what is `allowed`; gives those."""
        first, found = len(self.waits), []
        yield found
        me = threading.get_ident()
        found += [wait for wait in self.waits[first:] if wait.thread == me]
        others = [f"{wait.what} at {wait.where}" for wait in found if wait.what not in allowed]
        assert not others, "the host waited: " + "; ".join(others)

    def take(self, num_bytes: int) -> None:
        """Or give back, if it is negative."""
        with self.lock:
            if num_bytes > 0 and self.allocated + num_bytes > self.total_bytes - self.taken_bytes:
                free = self.total_bytes - self.taken_bytes - self.allocated
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {num_bytes / MIB:.2f} MiB. GPU 0 has a total capacity of "
                    f"{self.total_bytes / MIB:.2f} MiB of which {free / MIB:.2f} MiB is free."
                )
            self.allocated += num_bytes
            self.peak = max(self.peak, self.allocated)
            self.reserved = max(self.reserved, self.allocated)

    def pinned(self, shape: Iterable[int], dtype: torch.dtype) -> torch.Tensor:
        """New pinned memory, in which there is garbage."""
        shape = tuple(shape)
        size = prod(shape) * dtype.itemsize
        raw = np.full(size + ALIGNED_BYTES, 0x7F, np.uint8)
        first = -raw.ctypes.data % ALIGNED_BYTES
        array = raw[first : first + max(size, 1)]
        begin = array.ctypes.data
        self.pin(begin, size)
        weakref.finalize(array, self._pinned.pop, begin, None)
        return torch.from_numpy(array)[:size].view(dtype).view(shape)

    def pin(self, address: int, size_bytes: int) -> None:
        """Make memory of the host pinned."""
        self._pinned[address] = address + size_bytes

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        at = tensor.data_ptr()
        return any(begin <= at <= end for begin, end in list(self._pinned.items()))

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.taken_bytes - self.reserved


def caller() -> str:
    """The line that called torch or Triton."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not (file.startswith(_HERE) or "/site-packages/" in file or file.endswith("contextlib.py")):
            return f"{file.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "nowhere"
