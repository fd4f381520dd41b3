"""The environment that `tandem up` gives to its processes."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Workers share cores, and a thread that spins while it waits takes a core from whoever has work. torch computes with
# GNU OpenMP, whose threads spin 300,000 times (about a millisecond) at the end of each parallel region before they
# sleep. Measured on 2 cores, a decode-like process (16 small regions, then 3 ms of waiting) beside a prefill-like one
# (large matmuls, niceness 5), each with 2 threads:
#
#     spins          decode alone          together: decode   prefill
#     300,000        222/s on 1.3 cores          84/s          96/s
#     10,000         188/s on 0.7 cores         124/s         139/s
#     0 (passive)    171/s on 0.7 cores          43/s          53/s
#
# 10,000 outlast the microseconds between two regions of a step, and not the wait for the next step. Without any, every
# region wakes its threads anew, often on the core of the thread that wakes them.
SPINS = "10000"
OPENMP_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def child_environment(**extra: str) -> dict[str, str]:
    """This process's own, with the packages beside this one in reach wherever the command was given."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    spins = {} if any(name in os.environ for name in OPENMP_VARIABLES) else {"GOMP_SPINCOUNT": SPINS}
    return {**os.environ, **spins, "PYTHONPATH": os.pathsep.join(paths), **extra}
