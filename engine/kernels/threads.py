"""How many cores the kernels use: as many as torch, so that both draw on the same pool of threads."""

import numba
import torch


def share_cores() -> None:
    """Give Numba torch's number of threads; it keeps one per calling thread, so the caller of kernels sets it."""
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(torch.get_num_threads(), most))
