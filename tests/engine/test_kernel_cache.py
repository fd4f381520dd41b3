"""A cache of kernels that cannot be written costs the next start time, and this one nothing."""

import inspect
import logging
from pathlib import Path

import pytest
from numba import njit
from numba.core import caching

from engine.kernels.cache import forgive_unwritable_cache


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


def _twice(number: float) -> float:
    return 2 * number
