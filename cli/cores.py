"""Which CPUs each role of `tandem up` gets, and who borrows whose: options in, a value out.

shared   every process may use every CPU, and the kernel decides; decode goes before prefill by niceness
split    workers have CPUs of their own, as many each, so that long prompts leave running streams alone; roles borrow
         the other's CPUs while these have no work, so that an idle core is rare. Shared where there are too few
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from engine.cpus import available_cpus, share_out
from engine.errors import ConfigError

DEFAULT_BORROWERS = ("prefill", "decode")
"""Of split cores. Decode that borrows as well makes quiet streams as fast as if there were no roles; with prefill alone
the gaps beside long prompts differ less from the quiet ones, which are longer then."""


@dataclass(frozen=True, slots=True)
class Cores:
    """A division of this machine's CPUs."""

    cpus: Mapping[str, tuple[int, ...]]
    """By role; shared out among the role's processes. Empty pins to none."""
    borrowers: tuple[str, ...] = ()
    """Roles whose workers use the other's CPUs while these have no work."""
    threads: int = 0
    """Of each worker; 0 is one for each CPU it may use."""


def check_ranks(ranks: Mapping[str, int], num_prefill: int, borrow: str | None) -> None:
    """Raise ConfigError, naming the option, for workers of several processes that are not there, or should borrow."""
    if ranks["prefill"] > 1 and not num_prefill:
        raise ConfigError("--prefill-tp is given, but --prefill 0 starts no prefill workers", field="--prefill-tp")
    for role, num_ranks in ranks.items():
        if num_ranks > 1 and borrow in (role, "both"):
            message = f"--borrow {borrow}: {role} workers of {num_ranks} processes (--{role}-tp) cannot borrow CPUs"
            raise ConfigError(message, field="--borrow")


def divide_cores(
    lists: Mapping[str, str], *, num_prefill: int, num_decode: int, split: bool, borrow: str | None
) -> Cores:
    """`lists` by role go before `split`. Raises ConfigError, naming the option, for what cannot be done.

    Where there are fewer CPUs than workers, `split` leaves them shared, and a worker has one thread: the threads of a
    step wait for each other many times, each time for whoever else has the CPU then (measured with 4 workers on 2 CPUs:
    20 ms for a step of half a millisecond).
    """
    if lists["prefill"] and not num_prefill:
        raise ConfigError("--prefill-cpus is given, but --prefill 0 starts no prefill workers", field="--prefill-cpus")
    cpus = {role: available_cpus(text, f"--{role}-cpus") for role, text in lists.items()}
    threads = 0
    if not (cpus["prefill"] or cpus["decode"]):
        if len(os.sched_getaffinity(0)) < num_prefill + num_decode:
            threads = 1
        elif split and num_prefill + num_decode > 1:
            cpus |= _split(num_prefill, num_decode)
    own = 0 < num_prefill <= len(cpus["prefill"]) and num_decode <= len(cpus["decode"])
    own = own and not set(cpus["prefill"]) & set(cpus["decode"])
    if borrow is None:
        return Cores(cpus, DEFAULT_BORROWERS if split and own else (), threads)
    borrowers = {"none": (), "both": ("prefill", "decode")}.get(borrow, (borrow,))
    if borrowers and not own:
        message = f"--borrow {borrow} needs CPUs of its own for every worker: --cores split on a machine that has them,"
        raise ConfigError(f"{message} or --prefill-cpus and --decode-cpus", field="--borrow")
    return Cores(cpus, borrowers, threads)


def _split(num_prefill: int, num_decode: int) -> dict[str, tuple[int, ...]]:
    """The same number of CPUs for each worker."""
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    shares = share_out(cpus, num_prefill + num_decode)
    first = sum(len(share) for share in shares[:num_prefill])
    return {"prefill": cpus[:first], "decode": cpus[first:]}
