"""Runs a program whose clocks are wrong.

    python -m tests.e2e.wrong_clock AHEAD_S WALL_AHEAD_S PPM PROGRAM ARGUMENTS...

Its monotonic clock is that much ahead of the host's, and gains so many microseconds a second; its wall clock is wrong
on its own. At SIGUSR1 the monotonic clock jumps ahead by `JUMP_S`, as none of a sound host ever does, and the wall
clock by `WALL_JUMP_S`, as one does that somebody sets.
"""

import runpy
import signal
import sys
import time

JUMP_S = 2.0
WALL_JUMP_S = -4.5
S = 1_000_000_000


def go_wrong(ahead_s: float, wall_ahead_s: float, ppm: float) -> None:
    """Everything that asks the time from now on is lied to."""
    monotonic_ns, time_ns, jumps = time.monotonic_ns, time.time_ns, [0]
    began_ns = monotonic_ns()

    def wrong_monotonic_ns() -> int:
        now_ns = monotonic_ns()
        return now_ns + round((ahead_s + jumps[0] * JUMP_S) * S + (now_ns - began_ns) * ppm * 1e-6)

    def wrong_time_ns() -> int:
        return time_ns() + round((wall_ahead_s + jumps[0] * WALL_JUMP_S) * S)

    def jump(*_: object) -> None:
        jumps[0] += 1

    time.monotonic_ns, time.time_ns = wrong_monotonic_ns, wrong_time_ns
    time.monotonic = lambda: wrong_monotonic_ns() / S
    time.time = lambda: wrong_time_ns() / S
    signal.signal(signal.SIGUSR1, jump)


if __name__ == "__main__":
    ahead_s, wall_ahead_s, ppm, program, *arguments = sys.argv[1:]
    go_wrong(float(ahead_s), float(wall_ahead_s), float(ppm))
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
