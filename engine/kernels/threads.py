"""How many cores the kernels use: as many as torch, and if torch was imported first, from its pool of threads."""

import threading

import numba
import torch

_shared = threading.local()


def share_cores() -> None:
    """Give Numba torch's number of threads; it keeps one per calling thread, so the caller of kernels sets it."""
    num_threads = torch.get_num_threads()
    if getattr(_shared, "num_threads", 0) == num_threads:
        return
    _shared.num_threads = num_threads
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(num_threads, most))
    # As it starts, Numba sets OpenMP's number of threads, which is torch's too, to the number of cores.
    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)
