"""Threads that take parts as they get to them compute each thing once, however many of them there are."""

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numba import config, njit, prange

from engine.kernels.sharing import num_shares, share_out, take
from engine.kernels.threads import share_cores


@njit(parallel=True, nogil=True)
def _visit(visits, late, pieces):  # type: ignore[no-untyped-def]
    """Thread `late` begins when the others have taken everything; `pieces` counts what each thread took."""
    work = share_out(visits.shape[0])
    for thread in prange(num_shares(work)):
        if thread == late:
            while pieces[(late + 1) % 2, 1] == 0:
                pieces[late, 2] += 1
        begin, end = take(work, thread)
        while begin < end:
            pieces[thread, 0] += 1
            for index in range(begin, end):
                visits[index] += 1
            begin, end = take(work, thread)
        pieces[thread, 1] = 1


Visits = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _visited(size: int, num_threads: int, late: int = -1) -> Visits:
    """How often each thing was computed, and the pieces that each thread took."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    share_cores()
    try:
        visits, pieces = np.zeros(size, np.int64), np.zeros((2, 64), np.int64)
        _visit(visits, late, pieces)
        return visits, pieces[:, 0]
    finally:
        torch.set_num_threads(before)
        share_cores()


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 40, 1000])
def test_everything_is_computed_once(size: int, num_threads: int) -> None:
    visits, _ = _visited(size, num_threads)
    assert visits.tolist() == [1] * size


def test_a_thread_alone_takes_its_share_in_pieces() -> None:
    _, pieces = _visited(1000, 1)
    assert pieces.tolist() == [8, 0]


@pytest.mark.skipif(config.NUMBA_NUM_THREADS < 2, reason="needs two cores")  # type: ignore[attr-defined]
@pytest.mark.parametrize("late", [0, 1])
def test_what_a_late_thread_leaves_is_taken_by_the_other(late: int) -> None:
    visits, pieces = _visited(1000, 2, late)
    assert visits.tolist() == [1] * 1000
    assert pieces[late] == 0
    assert pieces[1 - late] == 16


def test_it_compiles_in_a_process_that_has_started_no_threads() -> None:
    program = "from engine.kernels.sharing import num_shares, share_out; assert num_shares(share_out(10)) >= 1"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
