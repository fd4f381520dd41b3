"""Tells glibc to keep the memory of received messages instead of returning it to the kernel after each one.

libzmq allocates every part it receives anew. By default glibc gives half of that straight back, so that the kernel
clears and maps the same pages over and over: a third of the receiver's CPU time, measured with `bench.transfer`.
"""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT_BYTES = 32 << 20
"""Larger pieces are mapped one by one. The largest that glibc allows: a model's activations come from the same heap,
and a limit of 1 MiB made a prefill of 512 tokens a third slower."""
KEPT_BYTES = 64 << 20
"""Free memory at the end of a heap that is kept."""


def keep_freed_memory() -> None:
    """For the whole process, from now on. Other libcs go without."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
