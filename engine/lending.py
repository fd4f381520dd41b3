"""CPUs that one worker lends to another while it has nothing to do.

Workers pinned to CPUs of their own do not disturb each other, but leave a core idle whenever a role has no work. Here
each worker says on a board that all of a machine share which of its CPUs are at work, and looks before every step whose
are not: those it may use for that step, with a thread more for each. A worker that gets work meanwhile shares a core
until the other's step ends, not longer; a decode worker keeps its mark from a stream's first step to its last.

The board is a file with one byte a CPU. It is advice: a worker that died leaves its mark, and then its CPUs are lent to
nobody (or shared for a while) until it is back. Two workers that lend must not have a CPU in common.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import torch

from engine.config import WorkerConfig
from engine.cost import Slowdown
from engine.cpus import MAX_CPU, available_cpus, reachable_cpus
from engine.errors import ConfigError
from engine.steploop import Stepper

Command = TypeVar("Command")
Event = TypeVar("Event")


class Board:
    """Which CPUs are at work, as their owners say."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where the file cannot be had."""
        size = MAX_CPU + 1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, size)
                self._marks = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigError(f"the board of CPUs {path}: {error.strerror}", field="cpu_board") from error

    def mark(self, cpus: Sequence[int], *, working: bool) -> None:
        for cpu in cpus:
            self._marks[cpu] = working

    def idle(self, cpus: Sequence[int]) -> tuple[int, ...]:
        """Those of `cpus` that nobody works on."""
        return tuple(cpu for cpu in cpus if not self._marks[cpu])


class Cores:
    """The CPUs of one worker, and others' it may borrow. Every method is called on the thread that computes."""

    def __init__(self, own: tuple[int, ...], others: tuple[int, ...], board: Board, num_threads: int = 0) -> None:
        """`num_threads` on its own CPUs; 0 is one for each."""
        self.borrowed: tuple[int, ...] = ()
        self._own = own
        self._others = others
        self._board = board
        self._num_threads = num_threads or len(own)
        self._working = False

    @property
    def alone(self) -> bool:
        """Whether a CPU that could be borrowed is not."""
        return len(self.borrowed) < len(self._others)

    def work(self) -> None:
        """A step begins: mark our own CPUs and take what is idle beside them."""
        if not self._working:
            self._working = True
            self._board.mark(self._own, working=True)
        if (borrowed := self._board.idle(self._others)) != self.borrowed:
            self.borrowed = borrowed
            os.sched_setaffinity(0, {*self._own, *borrowed})  # of this thread; those it starts inherit it
            torch.set_num_threads(self._num_threads + len(borrowed))

    def rest(self) -> None:
        """There is no work: others may use our CPUs."""
        self._working = False
        self._board.mark(self._own, working=False)


class LendingStepper(Generic[Command, Event]):
    """A worker's stepper, which borrows for each step and lends between them while there is no work."""

    def __init__(self, stepper: Stepper[Command, Event], cores: Cores, slowdown: Slowdown) -> None:
        self._stepper = stepper
        self._cores = cores
        self._slowdown = slowdown
        cores.rest()  # whatever an earlier start of this worker left on the board

    def apply(self, commands: Sequence[Command]) -> list[Event]:
        return self._stepper.apply(commands)

    def step(self) -> list[Event]:
        if not self._stepper.has_work():
            return self._stepper.step()
        self._cores.work()
        self._slowdown.alone = self._cores.alone
        try:
            return self._stepper.step()
        finally:
            if not self._stepper.has_work():
                self._cores.rest()

    def has_work(self) -> bool:
        return self._stepper.has_work()


@contextmanager
def with_borrowed(config: WorkerConfig) -> Iterator[None]:
    """Compute with the CPUs that may be borrowed as well: what an idle machine gives, and so what is measured.

    Raises ConfigError for CPUs that are not there.
    """
    others = reachable_cpus(config.borrow_cpus, "borrow_cpus")
    pinned, num_threads = os.sched_getaffinity(0), torch.get_num_threads()
    if others:
        os.sched_setaffinity(0, pinned | set(others))
        torch.set_num_threads(num_threads + len(others))
    try:
        yield
    finally:
        os.sched_setaffinity(0, pinned)
        torch.set_num_threads(num_threads)


def lending(stepper: Stepper[Command, Event], config: WorkerConfig, slowdown: Slowdown) -> Stepper[Command, Event]:
    """The stepper, lending and borrowing as `config` says; `slowdown`, which notes its steps, hears with which CPUs.

    Raises ConfigError for what does not go together.
    """
    own = available_cpus(config.cpus)
    others = reachable_cpus(config.borrow_cpus, "borrow_cpus")
    if not config.cpu_board:
        if others:
            raise ConfigError("borrow_cpus needs cpu_board, where owners say that they are idle", field="borrow_cpus")
        return stepper
    if not own:
        raise ConfigError("cpu_board needs cpus: what a worker lends is its own", field="cpu_board")
    if shared := set(own) & set(others):
        raise ConfigError(f"CPU {min(shared)} cannot be both the worker's own and borrowed", field="borrow_cpus")
    return LendingStepper(stepper, Cores(own, others, Board(Path(config.cpu_board)), config.threads), slowdown)
