"""What every task is given: the device, the time that is left, the limits found so far; and how things are timed.

Calls are captured in a CUDA graph, several times over, and its replays are timed by events: what the host takes to
launch is not in the figure, as it is not in a decode step's. Where the calls' data do not fill the cache, their caller
gives several that use different data.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.gpu_parts import records
from bench.gpu_parts.report import Row

Call = Callable[[], object]
_GRAPH_MS, _MOST_COPIES = 2.0, 64
_TOTAL_MS, _LEAST_REPEATS, _MOST_REPEATS = 200.0, 7, 50
_FLUSH_BYTES = 1 << 30
"""Many times the cache of any card; while it is written the host launches what is timed behind it."""
_SOME_FLUSHES = 8
L2_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Task:
    """Its name is one of a kind within its part."""

    name: str
    run: Callable[[], None]


@dataclass(slots=True)
class Bench:
    """One part's run."""

    device: torch.device
    is_dry: bool
    deadline: float
    """By `time.monotonic`"""
    limits: dict[str, float]
    file: Path
    task: str = ""
    _flush: list[torch.Tensor] = field(default_factory=list)

    def emit(self, row: Row) -> None:
        records.append(self.file, {"row": row.as_json(), "task": self.task})

    def keep_limit(self, name: str, value: float) -> None:
        self.limits[name] = value
        records.append(self.file, {"limit": name, "value": value})

    def size(self, real: int, tiny: int) -> int:
        """What a dry run has in place of a real size."""
        return tiny if self.is_dry else real

    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def free_bytes(self) -> int:
        return 1 << 26 if self.device.type != "cuda" else torch.cuda.mem_get_info()[0]

    def num_cores(self) -> int:
        """Multiprocessors."""
        if self.device.type != "cuda":
            return 4
        return torch.cuda.get_device_properties(self.device).multi_processor_count

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def flush(self) -> None:
        """Put something else into the cache."""
        if not self._flush:
            self._flush.append(torch.empty(self.size(_FLUSH_BYTES, 16), dtype=torch.int8, device=self.device))
        self._flush[0].zero_()

    def alone_ms(self, call: Call, count: int) -> float:
        """Of one call on the device, which does not wait for the host: as many are launched while it is kept busy."""
        began = time.perf_counter()
        call()
        self.synchronize()
        call_s = time.perf_counter() - began
        num_flushes = int(1.5 * count * call_s / self._flush_s()) + 1
        if self.device.type != "cuda":
            return call_s * 1e3
        for _ in range(num_flushes):
            self.flush()
        return statistics.median(elapsed_ms([timed(call) for _ in range(count)]))

    def _flush_s(self) -> float:
        """That the device takes for it, about."""
        self.flush()
        self.synchronize()
        began = time.perf_counter()
        for _ in range(_SOME_FLUSHES):
            self.flush()
        self.synchronize()
        return (time.perf_counter() - began) / _SOME_FLUSHES

    def median_ms(self, calls: Sequence[Call]) -> float:
        """Of one call, when the calls run one after another."""
        if self.device.type != "cuda":
            began = time.perf_counter()
            for call in calls[:2]:
                call()
            return max(1e-6, (time.perf_counter() - began) * 1e3 / len(calls[:2]))
        copies, graph = _capture(calls)
        graph.replay()
        whole_ms = elapsed_ms([timed(graph.replay)])[0]
        repeats = int(min(_MOST_REPEATS, max(_LEAST_REPEATS, _TOTAL_MS / max(whole_ms, 1e-3))))
        pairs = []
        for _ in range(repeats):
            self.flush()
            pairs.append(timed(graph.replay))
        return statistics.median(elapsed_ms(pairs)) / (copies * len(calls))


Events = tuple[torch.cuda.Event, torch.cuda.Event]


def timed(call: Call) -> Events:
    """Before and after it on the current stream."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    call()
    end.record()
    return begin, end


def elapsed_ms(pairs: Sequence[Events]) -> list[float]:
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in pairs]


def _capture(calls: Sequence[Call]) -> tuple[int, torch.cuda.CUDAGraph]:
    """How many times the calls are in the graph, and the graph."""

    def once() -> None:
        for call in calls:
            call()

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        once()  # compiles
        once()
        pass_ms = elapsed_ms([timed(once)])[0]  # on the host's time where that is longer: an upper bound
    torch.cuda.current_stream().wait_stream(side)
    copies = int(min(_MOST_COPIES, max(1, _GRAPH_MS // max(pass_ms, 1e-3))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            once()
    return copies, graph
