"""Streams, events and memory. A stream is a list of work that is done when somebody waits for it, and no sooner: who
reads a result without waiting gets garbage, and so does a stream that does not wait for another.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

if TYPE_CHECKING:
    from tests.gpu.pretend.gpu import Gpu

ALIGNED_BYTES = 512


@dataclass(frozen=True, slots=True)
class Work:
    """One operation on the device."""

    run: Callable[[], object]
    where: str
    is_mark: bool = False
    """It computes nothing, and is done by an idle GPU, too"""

    def perform(self) -> None:
        try:
            with torch._C.DisableTorchFunction(), torch.inference_mode():
                self.run()
        except Exception as error:
            error.add_note(f"launched at {self.where}")
            raise


class Memory:
    """One allocation of the device; it is given back with the last tensor in it."""

    def __init__(self, gpu: "Gpu", num_bytes: int) -> None:
        self.gpu, self.num_bytes = gpu, 0
        self.stream = gpu.current_stream
        self.used: dict[Stream, tuple[int, str]] = {}
        """By other streams, up to where"""
        self.recorded: set[Stream] = set()
        """Those that the allocator knows of"""
        size = -(-num_bytes // ALIGNED_BYTES) * ALIGNED_BYTES
        gpu.take(size)
        self.num_bytes = size

    def __del__(self) -> None:
        for stream, (place, where) in self.used.items():
            if stream.num_done < place and stream not in self.recorded:
                self.gpu.hazards.append(f"memory is let go of that a stream still uses: {where}")
        self.gpu.take(-self.num_bytes)


class Stream:
    """`torch.cuda.Stream`."""

    gpu: ClassVar["Gpu"]

    def __init__(self, device: object = None, priority: int = 0) -> None:
        self.num_launched = self.num_done = 0
        self._work: deque[Work] = deque()
        self.gpu.streams.append(self)

    def launch(self, work: Work, memories: Iterable[Memory] = ()) -> None:
        """`memories` are what it reads and writes: not kept until it is done, as no allocator of a GPU does."""
        with self.gpu.lock:
            self._work.append(work)
            self.num_launched += 1
            for memory in memories:
                if memory.stream is not self:
                    memory.used[self] = (self.num_launched, work.where)

    def finish(self, place: int | None = None) -> None:
        """Do what was launched, up to `place`."""
        with self.gpu.lock:
            while self.num_done < (self.num_launched if place is None else place):
                self.num_done += 1
                work = self._work.popleft()
                if work.is_mark or not self.gpu.is_idle:
                    work.perform()

    def synchronize(self) -> None:
        self.gpu.wait("Stream.synchronize")
        self.finish()

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = self.gpu.Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        assert not self.gpu.is_capturing_on(self), "streams that join a captured one are not pretended"
        self.launch(Work(event.finisher(), "wait_event", is_mark=True))

    def wait_stream(self, stream: "Stream") -> None:
        self.wait_event(stream.record_event())

    def query(self) -> bool:
        return self.num_done == self.num_launched


class Event:
    """`torch.cuda.Event`."""

    gpu: ClassVar["Gpu"]

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._is_timed = enable_timing
        self._stream: Stream | None = None
        self._place = 0
        self._time_s: list[float] = []
        self._was_asked = False

    def record(self, stream: Stream | None = None) -> None:
        stream = self.gpu.current_stream if stream is None else stream
        assert not self.gpu.is_capturing_on(stream), "events of captured streams are not pretended"
        self._time_s = times = []
        stream.launch(Work(lambda: times.append(time.perf_counter()), "Event.record", is_mark=True))
        self._stream, self._place, self._was_asked = stream, stream.num_launched, False

    def finisher(self) -> Callable[[], None]:
        """Does what was launched before it was recorded last."""
        stream, place = self._stream, self._place
        return lambda: stream.finish(place) if stream is not None else None

    def synchronize(self) -> None:
        self.gpu.wait("Event.synchronize")
        self.finisher()()

    def wait(self, stream: Stream | None = None) -> None:
        (self.gpu.current_stream if stream is None else stream).wait_event(self)

    def query(self) -> bool:
        """Not at once: who does not ask again has not waited."""
        with self.gpu.lock:
            if not self._was_asked and self._stream is not None and self._stream.num_done < self._place:
                self._was_asked = True
                return False
            self.finisher()()
            return True

    def elapsed_time(self, end: "Event") -> float:
        if not (self._is_timed and end._is_timed):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if not (self._time_s and end._time_s):
            raise RuntimeError("CUDA error: device not ready")
        return (end._time_s[0] - self._time_s[0]) * 1e3
