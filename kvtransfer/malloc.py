"""Tells glibc to keep the memory of received messages instead of returning it to the kernel after each one.

libzmq allocates every part it receives anew. By default glibc gives half of that straight back, so that the kernel
clears and maps the same pages over and over: a third of the receiver's CPU time, measured with `bench.transfer`.
"""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 64 << 20
"""Free memory at the end of a heap that is kept."""


def keep_freed_memory(part_bytes: int) -> None:
    """For the whole process, from now on; `part_bytes` is the largest that matters. Other libcs go without."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 4 * part_bytes)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
