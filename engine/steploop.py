"""The thread that owns the device: commands in by value, events out once per step.

Knows when to step and when to sleep. Does not know what a step does.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

Command = TypeVar("Command", contravariant=True)
Event = TypeVar("Event")


class Stepper(Protocol[Command, Event]):
    """What the loop drives; called on the loop's thread alone."""

    def step(self, commands: Sequence[Command]) -> list[Event]:
        """Apply `commands`, compute one step if there is work, return what happened."""

    def has_work(self) -> bool:
        """Whether a step without commands would compute something."""


C = TypeVar("C")
E = TypeVar("E")


class StepLoop(Generic[C, E]):
    """Runs a stepper on the calling thread until stopped."""

    def __init__(self, stepper: Stepper[C, E], deliver: Callable[[list[E]], None]) -> None:
        self._stepper = stepper
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[C | None] = queue.SimpleQueue()
        self._stopping = threading.Event()

    def submit(self, command: C) -> None:
        """Hand over a command, from any thread."""
        self._inbox.put(command)

    def stop(self) -> None:
        """End the loop after the step that runs now; commands not taken yet are dropped."""
        self._stopping.set()
        self._inbox.put(None)

    def run(self) -> None:
        while (commands := self._drain()) is not None:
            if events := self._stepper.step(commands):
                self._deliver(events)

    def _drain(self) -> list[C] | None:
        """Take every waiting command; sleep only when there is nothing to compute."""
        commands: list[C] = []
        while not self._inbox.empty() or not (commands or self._stepper.has_work()):
            command = self._inbox.get()
            if command is None or self._stopping.is_set():
                return None
            commands.append(command)
        return None if self._stopping.is_set() else commands
