"""An event loop without a clock or files: time passes when the test says so, and a turn ends when nobody can go on."""

import asyncio
import selectors
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """What the module `time` is to the code under test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._ticks = 0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        self._ticks += 1  # whatever is measured took some time
        return int(self.now * 1e9) + self._ticks

    def time_ns(self) -> int:
        return self.monotonic_ns()


class _Idle(selectors.SelectSelector):
    """Waits for nothing: notes how long it should have, and calls `on_idle`."""

    wait_s: float | None = None
    on_idle: Callable[[], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self.wait_s = timeout
            self.on_idle()
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Readers are called by the test, by the number they were added under."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.readers: dict[int, Callable[[], None]] = {}
        self.faults: list[BaseException | str] = []
        self._idle = _Idle()
        super().__init__(self._idle)
        self._idle.on_idle = self.stop
        self.set_exception_handler(lambda _, context: self.faults.append(context.get("exception", context["message"])))

    def time(self) -> float:
        return self.clock.now

    def add_reader(self, fd, callback, *args) -> None:  # type: ignore[no-untyped-def,override]
        self.readers[fd] = callback

    def remove_reader(self, fd) -> bool:  # type: ignore[no-untyped-def,override]
        return self.readers.pop(fd, None) is not None

    def settle(self) -> None:
        """Let everybody go on until all wait for time or for the test."""
        self.run_forever()
        if self.faults:
            raise AssertionError(f"nobody looked after {self.faults}")

    def run(self, call: Callable[[], T]) -> T:
        """Call on the loop, as everything that belongs to it is, and settle."""
        made: asyncio.Future[T] = self.create_future()

        def on_loop() -> None:
            try:
                made.set_result(call())
            except Exception as error:
                made.set_exception(error)

        self.call_soon(on_loop)
        self.settle()
        return made.result()

    def watch(self, task: "asyncio.Task[None]") -> "asyncio.Task[None]":
        """A task that must not fail, though it may be cancelled."""

        def ended(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and (error := task.exception()):
                self.faults.append(error)

        task.add_done_callback(ended)
        return task

    def advance(self, seconds: float) -> None:
        """Let time pass, and everybody act when it is his."""
        end = self.clock.now + seconds
        self.settle()
        while (wait_s := self._idle.wait_s) is not None and self.clock.now + wait_s <= end:
            self.clock.now += max(wait_s, 1e-9)
            self.settle()
        self.clock.now = max(end, self.clock.now)
