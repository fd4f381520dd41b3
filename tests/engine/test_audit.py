"""Debug mode: what breaks custody ends the step loop, in words; where it is off nothing is wrapped."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from engine.audit import audited
from engine.blocks import BlockPool
from engine.config import WorkerConfig
from engine.custody import Holder, Moves, check_holders
from engine.sequence import SequenceId

ON = WorkerConfig(debug_custody=True)
A, B = SequenceId("a"), SequenceId("b")


@dataclass
class FakeWorker:
    """Holds what the test says; each step moves everybody to the next state that the test says."""

    moves: Moves = field(default_factory=lambda: {"queued": {"running"}, "running": {"over"}, "over": set()})
    states: list[str] = field(default_factory=list)
    pool: BlockPool[SequenceId] = field(default_factory=lambda: BlockPool(4))
    held: tuple[int, ...] = ()

    def apply(self, commands: Sequence[str]) -> list[str]:
        return list(commands)

    def step(self) -> list[str]:
        self.states.pop(0)
        return []

    def has_work(self) -> bool:
        return bool(self.states)

    def holders(self) -> list[Holder]:
        return [Holder(A, self.states[0], self.held, "")] if self.states else []

    def check(self) -> None:
        check_holders(self.pool, self.holders())


def test_without_debugging_nothing_is_wrapped() -> None:
    worker = FakeWorker()
    assert audited(worker, WorkerConfig()) is worker


def test_states_that_go_forward_are_legal_also_if_several_moves_were_not_seen() -> None:
    worker = FakeWorker(states=["queued", "queued", "over"])
    stepper = audited(worker, ON)
    assert stepper.apply(["x"]) == ["x"]
    assert stepper.has_work()
    for _ in range(3):
        assert stepper.step() == []


def test_a_state_that_goes_backward_ends_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker(states=["running", "queued"])
    stepper = audited(worker, ON)
    stepper.apply([])
    with caplog.at_level(logging.CRITICAL), pytest.raises(AssertionError, match="a was running and is queued now"):
        stepper.step()
    assert "custody of KV blocks is broken after a step" in caplog.text


@pytest.mark.parametrize("held", [(0,), (0, 1, 2)])
def test_who_lists_other_blocks_than_his_ends_the_loop(held: tuple[int, ...], caplog: pytest.LogCaptureFixture) -> None:
    worker = FakeWorker(states=["running"], held=held)
    worker.pool.take(A, 2)
    with pytest.raises(AssertionError, match="a holds the blocks"):
        audited(worker, ON).apply(["x"])
    assert "broken after str" in caplog.text


def test_an_owner_whom_nobody_lists_ends_the_loop() -> None:
    worker = FakeWorker()
    worker.pool.take(B, 1)
    with pytest.raises(AssertionError, match="b holds the blocks"):
        audited(worker, ON).apply([])
