"""The thread that owns the device: commands in by value, events out once per step.

Knows when to step and when to sleep. Does not know what a step does.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

Command = TypeVar("Command", contravariant=True)
Event = TypeVar("Event")


class Stepper(Protocol[Command, Event]):
    """What the loop drives; called on the loop's thread alone."""

    def apply(self, commands: Sequence[Command]) -> list[Event]:
        """Take in `commands`; return what they led to, which nobody should wait a step's time to hear."""

    def step(self) -> list[Event]:
        """Compute one step if there is work; return what happened."""

    def has_work(self) -> bool:
        """Whether a step would compute something."""


C = TypeVar("C")
E = TypeVar("E")


class StepLoop(Generic[C, E]):
    """Runs a stepper on the calling thread until stopped."""

    def __init__(self, stepper: Stepper[C, E]) -> None:
        self._stepper = stepper
        self._inbox: queue.SimpleQueue[C | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._turn_began_s = 0.0
        """`time.monotonic()`; 0 while there is nothing to do."""

    def busy_s(self) -> float:
        """How long the commands and the step that are under way take already; 0 while there are none. Any thread."""
        began_s = self._turn_began_s
        return time.monotonic() - began_s if began_s else 0.0

    def submit(self, command: C) -> None:
        """Hand over a command, from any thread."""
        self._inbox.put(command)

    def stop(self) -> None:
        """End the loop after the step that runs now; commands not taken yet are dropped."""
        self._stopping.set()
        self._inbox.put(None)

    def run(self, deliver: Callable[[list[E]], None]) -> None:
        while (commands := self._drain()) is not None:
            self._turn_began_s = time.monotonic()
            if commands and (events := self._stepper.apply(commands)):
                deliver(events)
            if events := self._stepper.step():
                deliver(events)

    def _drain(self) -> list[C] | None:
        """Take every waiting command; sleep only when there is nothing to compute."""
        self._turn_began_s = 0.0
        commands: list[C] = []
        while not self._inbox.empty() or not (commands or self._stepper.has_work()):
            command = self._inbox.get()
            if command is None or self._stopping.is_set():
                return None
            commands.append(command)
        return None if self._stopping.is_set() else commands
