"""Threads that take parts as they get to them compute each thing once, however many of them there are."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numba import njit, prange

from engine.kernels.sharing import num_parts, share_out, take
from engine.kernels.threads import share_cores


@njit(parallel=True, nogil=True)
def _visit(visits):  # type: ignore[no-untyped-def]
    work = share_out(visits.shape[0])
    for _ in prange(num_parts(work)):
        begin, end = take(work)
        while begin < end:
            for index in range(begin, end):
                visits[index] += 1
            begin, end = take(work)
    return work


@pytest.fixture(params=(1, 2))
def num_threads(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def _visited(size: int, num_threads: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    share_cores()
    try:
        visits = np.zeros(size, np.int64)
        work = _visit(visits)
        return visits, work[1:]
    finally:
        torch.set_num_threads(before)
        share_cores()


@pytest.mark.parametrize("size", [0, 1, 2, 7, 40, 1000])
def test_everything_is_computed_once(size: int, num_threads: int) -> None:
    visits, bounds = _visited(size, num_threads)
    assert visits.tolist() == [1] * size
    if size:
        assert (bounds[0], bounds[-1]) == (0, size)
        assert (np.diff(bounds) > 0).all()


def test_parts_become_smaller_so_that_little_is_waited_for_at_the_end() -> None:
    _, bounds = _visited(1000, 2)
    sizes = np.diff(bounds)
    assert (np.diff(sizes) <= 0).all()
    assert (sizes[0], sizes[-1]) == (250, 50)


def test_a_thread_alone_takes_everything_at_once() -> None:
    _, bounds = _visited(1000, 1)
    assert bounds.tolist() == [0, 1000]
