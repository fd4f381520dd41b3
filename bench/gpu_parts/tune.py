"""Times every candidate of a kernel's list and says which is fastest, beside the one that is chosen now."""

import time
from collections.abc import Iterator
from functools import partial

from triton.runtime.errors import OutOfResources

from bench.gpu_parts.bench import Bench, Task
from bench.gpu_parts.report import Row
from bench.gpu_parts.tuning import Config, Tuning, tunings


def tasks(bench: Bench) -> Iterator[Task]:
    every = tunings(bench)
    for number, tuning in enumerate(every):
        yield Task(f"tune {tuning.name}", partial(_tune, bench, tuning, len(every) - number))


def some(bench: Bench, tuning: Tuning) -> tuple[Config, ...]:
    """All of them, but in a dry run the first."""
    return tuning.candidates[: bench.size(len(tuning.candidates), 1)]


def describe(candidate: Config) -> str:
    sizes = [f"{name} {value}" for name, value in candidate.kwargs.items()]
    return ", ".join([*sizes, f"{candidate.num_warps} warps", f"{candidate.num_stages} stages"])


def _tune(bench: Bench, tuning: Tuning, num_left: int) -> None:
    """Within this tuning's share of the time that is left."""
    until = time.monotonic() + (bench.deadline - time.monotonic()) / num_left
    now_us = bench.median_ms(tuning.make()) * 1e3
    candidates = some(bench, tuning)
    best_us, best, tried, too_large = now_us, "as it is", 0, 0
    for candidate in candidates:
        if time.monotonic() > until and tried:
            break
        tried += 1
        with tuning.in_place(candidate):
            try:
                us = bench.median_ms(tuning.make()) * 1e3
            except OutOfResources:
                too_large += 1
                continue
        if us < best_us:
            best_us, best = us, describe(candidate)
    note = f"{best}; {tried} of {len(candidates)} tried" + (f", {too_large} too large" if too_large else "")
    bench.emit(Row(bench.task, best_us, "us", now_us, now_us / best_us, note=f"{note}; limit: as it is"))
