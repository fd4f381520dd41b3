"""Which CPUs a process may use: lists like 0 or 0-3 or 0,2-3, as taskset writes them. Standard library only."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress

from engine.errors import ConfigError

PART = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
MAX_CPU = 4095
"""No kernel has more; a typing error must not become a list of millions."""


def parse_cpus(text: str, name: str = "cpus") -> tuple[int, ...]:
    """The CPUs of a list, ascending; none of an empty one. Raises ConfigError, naming the option, for anything else."""
    found: set[int] = set()
    for part in text.split(",") if text.strip() else ():
        match = PART.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= MAX_CPU:
            message = f"{name} is {text!r}: {part!r} is no CPU or range of CPUs; write 0 or 0-3 or 0,2-3"
            raise ConfigError(message, field=name)
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def format_cpus(cpus: Iterable[int]) -> str:
    """The shortest list of these CPUs."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def available_cpus(text: str, name: str = "cpus") -> tuple[int, ...]:
    """As `parse_cpus`; raises ConfigError for CPUs that this process may not use, too."""
    cpus = parse_cpus(text, name)
    _check(cpus, os.sched_getaffinity(0), text, name)
    return cpus


def reachable_cpus(text: str, name: str = "cpus") -> tuple[int, ...]:
    """As `available_cpus`, but of all that this process could be given, whatever it is pinned to now."""
    cpus, pinned = parse_cpus(text, name), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {*cpus, *pinned})  # leaves out what the machine or its container does not have
    reachable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, pinned)
    _check(cpus, reachable, text, name)
    return cpus


def _check(cpus: Iterable[int], there: set[int], text: str, name: str) -> None:
    if missing := set(cpus) - there:
        has = format_cpus(there)
        message = f"{name} is {text!r}: CPU {format_cpus(missing)} is not there for this process, which has {has}"
        raise ConfigError(message, field=name)


def share_out(cpus: tuple[int, ...], num_workers: int) -> list[tuple[int, ...]]:
    """Each worker's CPUs: even shares side by side, or all of them for everybody where there are too few."""
    if len(cpus) < num_workers:
        return [cpus] * num_workers
    ends = [len(cpus) * index // num_workers for index in range(num_workers + 1)]
    return [cpus[first:last] for first, last in zip(ends, ends[1:], strict=False)]


def pin(text: str) -> int:
    """Keep every thread of this process, and those it will start, on these CPUs; return how many, 0 for no list.

    Raises ConfigError for a list that makes no sense or names CPUs that are not there.
    """
    cpus = available_cpus(text)
    if cpus:
        for thread in os.listdir("/proc/self/task"):  # libraries start threads as they are imported
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(int(thread), cpus)
    return len(cpus)
