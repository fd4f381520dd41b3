"""Durations are measured on the monotonic clock; traces want wall-clock times."""

import time


def unix_ns(monotonic_ns: int) -> int:
    """The wall-clock time of a moment of `time.monotonic_ns()`."""
    return time.time_ns() - time.monotonic_ns() + monotonic_ns
