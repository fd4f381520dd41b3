"""A cache of kernels that cannot be written costs the next start time, and this one nothing; processes share it."""

import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from numba import njit
from numba.core import caching, config

from engine.kernels.cache import find_kernels_of_kernels, forgive_unwritable_cache

ROOT = Path(__file__).resolve().parents[2]


def test_a_disk_that_is_full_does_not_end_who_compiles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    monkeypatch.setattr(caching.Cache, "save_overload", inspect.unwrap(caching.Cache.save_overload))
    twice = njit(cache=True)(_twice)
    with pytest.raises(OSError, match="No space"):
        twice(1)
    forgive_unwritable_cache()
    forgive_unwritable_cache()
    with caplog.at_level(logging.WARNING):
        assert njit(cache=True)(_twice)(2.5) == 5
    assert [record.message for record in caplog.records] == [
        "a compiled kernel cannot be kept for the next start: [Errno 28] No space left on device"
    ]


def kernel(factor: int) -> Callable[[float], float]:
    """A kernel that holds another one, both made anew, as in another process."""

    @njit
    def part(number):  # type: ignore[no-untyped-def]
        return factor * number

    @njit(cache=True)
    def whole(number):  # type: ignore[no-untyped-def]
        return part(number) + 1

    made: Callable[[float], float] = whole
    return made


def test_a_kernel_that_holds_another_is_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_kernels_of_kernels()
    find_kernels_of_kernels()
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    first, again, other = kernel(2), kernel(2), kernel(3)
    assert [first(5.0), again(5.0), other(5.0)] == [11.0, 11.0, 16.0]
    hits = [sum(made.stats.cache_hits.values()) for made in (first, again, other)]  # type: ignore[attr-defined]
    assert hits == [0, 1, 0]


AT_ONCE = """
import os

import engine.kernels
from numba import njit

def kernel(factor):
    @njit(cache=True)
    def times(number):
        return factor * number
    return times

def at_once(*factors):
    \"\"\"How many compiled theirs, of processes that begin together.\"\"\"
    begun, begin = os.pipe()
    children = []
    for factor in factors:
        if not (child := os.fork()):
            os.close(begin)
            os.read(begun, 1)
            times = kernel(factor)
            assert times(5.0) == 5.0 * factor
            os._exit(sum(times.stats.cache_misses.values()))
        children.append(child)
    os.close(begin)
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)

print(at_once(2, 2, 2), at_once(3, 4, 5, 6), at_once(2, 3, 4, 5, 6))
"""


def test_who_comes_together_compiles_once_and_all_is_kept(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(AT_ONCE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1 4 0\n", "")


def _twice(number: float) -> float:
    return 2 * number


def test_two_processes_number_their_functions_apart() -> None:
    def first_number() -> int:
        code = (
            "import engine.kernels; from numba.core.bytecode import FunctionIdentity as F; print(next(F._unique_ids))"
        )
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert abs(first_number() - first_number()) > 1_000_000
