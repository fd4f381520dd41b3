"""Compiles the candidates for `tune.py`, in several processes at once; what is compiled lies in Triton's cache."""

from collections.abc import Iterator
from functools import partial

from triton.runtime.errors import OutOfResources

from bench.gpu_parts.bench import Bench, Task
from bench.gpu_parts.tune import describe, some
from bench.gpu_parts.tuning import Config, Tuning, tunings


def tasks(bench: Bench) -> Iterator[Task]:
    every = tunings(bench)
    for tuning in every[: bench.size(len(every), 2)]:
        for candidate in some(bench, tuning):
            yield Task(f"warm {tuning.name}: {describe(candidate)}", partial(_warm, bench, tuning, candidate))


def _warm(bench: Bench, tuning: Tuning, candidate: Config) -> None:
    with tuning.in_place(candidate):
        calls = tuning.make()
        try:
            calls[0]()
        except OutOfResources:
            return  # told by `tune.py`
        bench.synchronize()
