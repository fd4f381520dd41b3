"""One worker after the other is told where to die; each kill, and how long its worker was away."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bench.kills.arms import Arms
from bench.kills.load import Load
from bench.kills.phases import Phase
from bench.kills.server import Fleet, until

MOMENT_S = 20.0
"""A moment that does not come within this is given up, and tried again on another worker."""
TRIES = 6
BACK_S = 240.0
CLEARED_S = 130.0
"""Longer than a client waits for its answer."""


@dataclass(slots=True)
class Kill:
    """One that was done. `back_s` is from the death until the frontend could use the worker again."""

    phase: Phase
    worker: str
    died_s: float
    back_s: float | None = None


@dataclass(slots=True)
class Striker:
    arms: Arms
    fleet: Fleet
    load: Load
    rng: random.Random
    kills: list[Kill] = field(default_factory=list)
    missed: list[Phase] = field(default_factory=list)
    """Moments that did not come, however often they were waited for."""
    _waiting: list["asyncio.Task[None]"] = field(default_factory=list)

    async def strike(self, phases: Sequence[Phase], until_s: float, note: Callable[[Kill], None]) -> None:
        """Kill at all of these moments, in about this order, for as long as `time.monotonic` is below `until_s`; `note`
        hears of each kill."""
        left = list(phases)
        while left and time.monotonic() < until_s:
            phase = await self._next(left)
            left.remove(phase)
            for _ in range(TRIES):
                if kill := await self._try(phase):
                    self.kills.append(kill)
                    note(kill)
                    self._waiting.append(asyncio.create_task(self._until_back(kill)))
                    break
            else:
                self.missed.append(phase)
                print(f"  never came: {phase.role}, {phase.name}", flush=True)
            await until(self.load.clearing(), CLEARED_S)

    async def all_back(self) -> list[str]:
        """Wait for those that are away; who did not come back."""
        await asyncio.gather(*self._waiting)
        return [kill.worker for kill in self.kills if kill.back_s is None]

    async def _try(self, phase: Phase) -> Kill | None:
        worker = await self._victim(phase.role)
        pid = self.fleet.found()[worker].pid
        number = self.rng.randint(1, phase.last)
        self.load.hurried = phase.by_abort
        arm = self.arms.arm(worker, phase.name, number)
        self.fleet.expect_death(worker)
        if phase.drains:
            os.kill(pid, signal.SIGTERM)
        with suppress(TimeoutError):
            await until(lambda: self.arms.died(arm) or not _lives(pid), MOMENT_S)
        self.load.hurried = False
        if self.arms.died(arm) or not self.arms.take_back(worker):
            return Kill(phase, worker, time.monotonic())
        if not phase.drains:
            self.fleet.spare(worker)
        return None

    async def _next(self, phases: Sequence[Phase]) -> Phase:
        """The first one of a role of which two workers are there: one goes on, whoever is killed."""
        await until(lambda: any(len(self._ready(phase.role)) > 1 for phase in phases), BACK_S)
        return next(phase for phase in phases if len(self._ready(phase.role)) > 1)

    async def _victim(self, role: str) -> str:
        """Who is there for longest, when another one is there, too."""
        await until(lambda: len(self._ready(role)) > 1, BACK_S)
        return min(self._ready(role), key=lambda name: self.fleet.ready_since_s[name])

    def _ready(self, role: str) -> list[str]:
        return [name for name in self.fleet.ready_since_s if name.startswith(role)]

    async def _until_back(self, kill: Kill) -> None:
        with suppress(TimeoutError):
            await until(lambda: kill.worker in self.fleet.ready_since_s, BACK_S)
            kill.back_s = time.monotonic() - kill.died_s


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
