"""Lent CPUs: used while their owners have no work, and no longer; refused where it could not be right."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from engine.config import WorkerConfig
from engine.cost import Slowdown
from engine.cpus import MAX_CPU
from engine.errors import ConfigError
from engine.lending import Board, Cores, LendingStepper, lending, with_borrowed

HERE = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(HERE) < 2, reason="needs two CPUs")


class Work:
    """A stepper that does what it is told: each command is a step."""

    def __init__(self) -> None:
        self.left = 0
        self.seen: list[tuple[int, ...]] = []
        self.look = lambda: ()

    def apply(self, commands: Sequence[str]) -> list[str]:
        self.left += len(commands)
        return []

    def step(self) -> list[str]:
        if self.left:
            self.left -= 1
            self.seen.append(self.look())
        return []

    def has_work(self) -> bool:
        return self.left > 0


@contextmanager
def restored() -> Iterator[None]:
    """This thread's CPUs and torch's threads, as they were."""
    cpus, threads = os.sched_getaffinity(0), torch.get_num_threads()
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)
        torch.set_num_threads(threads)


def test_a_board_is_one_for_all_who_name_it(tmp_path: Path) -> None:
    a, b = Board(tmp_path / "cpus"), Board(tmp_path / "cpus")
    assert b.idle([0, 1, MAX_CPU]) == (0, 1, MAX_CPU)
    a.mark([1, MAX_CPU], working=True)
    assert b.idle([0, 1, MAX_CPU]) == (0,)
    b.mark([1], working=False)
    assert a.idle([0, 1]) == (0, 1)
    assert (tmp_path / "cpus").stat().st_mode & 0o777 == 0o600


def test_a_worker_at_work_is_borrowed_from_no_more(tmp_path: Path) -> None:
    """Marks only: CPUs that nobody has cannot be pinned to."""
    board = Board(tmp_path / "cpus")
    work = Work()
    stepper = LendingStepper(work, Cores((7,), (), board), Slowdown(None))
    work.look = lambda: board.idle((7,))
    assert board.idle((7,)) == (7,), "ready, and without work"
    stepper.apply(["a", "b"])
    stepper.step()
    assert board.idle((7,)) == (), "between two steps it is at work as well"
    stepper.step()
    assert board.idle((7,)) == (7,)
    assert work.seen == [(), ()]
    stepper.step()
    assert board.idle((7,)) == (7,), "a step without work takes nothing"


def test_a_step_that_fails_leaves_the_truth_on_the_board(tmp_path: Path) -> None:
    board, work = Board(tmp_path / "cpus"), Work()
    stepper = LendingStepper(work, Cores((7,), (), board), Slowdown(None))
    stepper.apply(["a"])
    work.look = lambda: 1 // 0  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        stepper.step()
    assert board.idle((7,)) == (7,)


@needs_two
def test_idle_cpus_are_used_with_a_thread_each_and_given_back(tmp_path: Path) -> None:
    mine, theirs = HERE[:1], HERE[1:2]
    board, work = Board(tmp_path / "cpus"), Work()
    slowdown = Slowdown(None)
    work.look = lambda: (slowdown.alone, torch.get_num_threads(), *sorted(os.sched_getaffinity(0)))

    def compute() -> None:
        stepper = LendingStepper(work, Cores(tuple(mine), tuple(theirs), board), slowdown)
        os.sched_setaffinity(0, mine)
        torch.set_num_threads(1)
        stepper.apply(["a", "b", "c"])
        board.mark(theirs, working=True)
        stepper.step()
        board.mark(theirs, working=False)
        stepper.step()
        board.mark(theirs, working=True)
        stepper.step()

    with restored():
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
    assert work.seen == [(True, 1, *mine), (False, 2, *mine, *theirs), (True, 1, *mine)]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"borrow_cpus": str(HERE[0])}, "borrow_cpus"),
        ({"cpu_board": "board"}, "cpu_board"),
        ({"cpus": str(HERE[0]), "borrow_cpus": str(HERE[0]), "cpu_board": "board"}, "borrow_cpus"),
        ({"cpus": str(HERE[0]), "borrow_cpus": str(MAX_CPU), "cpu_board": "board"}, "borrow_cpus"),
        ({"cpus": str(HERE[0]), "borrow_cpus": "x", "cpu_board": "board"}, "borrow_cpus"),
        ({"cpus": str(HERE[0]), "cpu_board": "no/such/folder/board"}, "cpu_board"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(tmp_path: Path, fields: dict[str, str], field: str) -> None:
    if "cpu_board" in fields:
        fields = {**fields, "cpu_board": str(tmp_path / fields["cpu_board"])}
    with pytest.raises(ConfigError) as refused:
        lending(Work(), WorkerConfig(**fields), Slowdown(None))  # type: ignore[arg-type]
    assert refused.value.field == field
    assert sorted(os.sched_getaffinity(0)) == HERE


@needs_two
def test_what_is_measured_may_use_the_borrowed_too() -> None:
    with restored():
        os.sched_setaffinity(0, HERE[:1])
        torch.set_num_threads(1)
        with with_borrowed(WorkerConfig(borrow_cpus=str(HERE[1]))):
            assert (torch.get_num_threads(), sorted(os.sched_getaffinity(0))) == (2, HERE[:2])
        assert (torch.get_num_threads(), sorted(os.sched_getaffinity(0))) == (1, HERE[:1])
        with with_borrowed(WorkerConfig()):
            assert (torch.get_num_threads(), sorted(os.sched_getaffinity(0))) == (1, HERE[:1])


def test_who_is_not_asked_to_lend_is_left_alone() -> None:
    work = Work()
    assert lending(work, WorkerConfig(), Slowdown(None)) is work
