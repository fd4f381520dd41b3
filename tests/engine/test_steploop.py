"""The step loop: commands are never lost, never waited for while there is work, and heard of before the step."""

import threading
from collections.abc import Sequence

import pytest

from engine.steploop import StepLoop


class Counter:
    """Each command is a number of steps to do."""

    def __init__(self) -> None:
        self.todo = 0
        self.applied: list[list[int]] = []
        self.gate: threading.Event | None = None
        self.stepping = threading.Event()

    def apply(self, commands: Sequence[int]) -> list[str]:
        self.applied.append(list(commands))
        self.todo += sum(commands)
        return [f"took {command}" for command in commands]

    def step(self) -> list[str]:
        self.stepping.set()
        if self.gate:
            self.gate.wait()
        if not self.todo:
            return []
        self.todo -= 1
        return ["stepped"]

    def has_work(self) -> bool:
        return self.todo > 0


class Running:
    """A loop on a thread of its own, and what it delivered."""

    def __init__(self, stepper: Counter) -> None:
        self.loop: StepLoop[int, str] = StepLoop(stepper)
        self.heard: list[str] = []
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.loop.run, args=(self._deliver,))
        self.thread.start()

    def _deliver(self, events: list[str]) -> None:
        with self.changed:
            self.heard += events
            self.changed.notify_all()

    def wait_for(self, num_events: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.heard) >= num_events, 10), self.heard

    def stop(self) -> None:
        self.loop.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


def test_an_idle_loop_sleeps_until_a_command_comes_and_steps_until_nothing_is_left() -> None:
    running = Running(Counter())
    running.loop.submit(3)
    running.wait_for(4)
    running.loop.submit(0)
    running.wait_for(5)
    running.stop()
    assert running.heard == ["took 3", *["stepped"] * 3, "took 0"]


def test_commands_that_come_during_a_step_are_taken_together_before_the_next() -> None:
    stepper = Counter()
    stepper.gate = threading.Event()
    running = Running(stepper)
    running.loop.submit(2)
    assert stepper.stepping.wait(10)
    running.loop.submit(0)
    running.loop.submit(1)
    stepper.gate.set()
    running.wait_for(6)
    running.stop()
    assert stepper.applied == [[2], [0, 1]]
    assert running.heard == ["took 2", "stepped", "took 0", "took 1", "stepped", "stepped"]


def test_commands_are_answered_before_the_step_computes() -> None:
    stepper = Counter()
    stepper.gate = threading.Event()
    running = Running(stepper)
    running.loop.submit(1)
    running.wait_for(1)
    assert running.heard == ["took 1"]
    stepper.gate.set()
    running.stop()


def test_stopping_ends_a_loop_that_has_work_and_one_that_sleeps() -> None:
    busy, idle = Running(Counter()), Running(Counter())
    busy.loop.submit(10**9)
    busy.wait_for(5)
    busy.stop()
    idle.stop()
    idle.loop.stop()


def test_a_fault_in_a_step_ends_the_loop() -> None:
    class Broken(Counter):
        def step(self) -> list[str]:
            raise ZeroDivisionError

    loop: StepLoop[int, str] = StepLoop(Broken())
    loop.submit(1)
    with pytest.raises(ZeroDivisionError):
        loop.run(lambda _: None)


def test_how_long_a_step_takes_can_be_seen_while_it_runs() -> None:
    counter = Counter()
    counter.gate = threading.Event()
    running = Running(counter)
    try:
        running.loop.submit(1)
        assert counter.stepping.wait(10)
        first = running.loop.busy_s()
        while running.loop.busy_s() == first:
            pass
        assert running.loop.busy_s() > first > 0
        counter.gate.set()
        running.wait_for(2)
        while running.loop.busy_s():  # until it sleeps
            pass
    finally:
        counter.gate.set()
        running.stop()
