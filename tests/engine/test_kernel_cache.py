"""A cache of kernels that cannot be written costs the next start time, and this one nothing."""

import inspect
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from numba import njit
from numba.core import caching, config

from engine.kernels.cache import find_kernels_of_kernels, forgive_unwritable_cache


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


def _twice(number: float) -> float:
    return 2 * number


def test_two_processes_number_their_functions_apart() -> None:
    def first_number() -> int:
        code = (
            "import engine.kernels; from numba.core.bytecode import FunctionIdentity as F; print(next(F._unique_ids))"
        )
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert abs(first_number() - first_number()) > 1_000_000
