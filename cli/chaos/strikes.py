"""Carries out the faults of a schedule, each when the load is where the fault wants it, and sees workers come back."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

import grpc.aio

from cli.chaos.faults import Action, Fault, Moment
from cli.chaos.links import LinkProxy
from cli.chaos.load import Moments
from cli.chaos.talk import Talk
from cli.chaos.victims import LocalServer, Worker, workers

MOMENT_PATIENCE_S = 3.0
"""A fault whose moment does not come by then happens anyway."""
LOOK_S = 0.2
RECOVERY_PATIENCE_S = 180.0
MAX_CORRUPTED = 3
"""Pieces of one fault: fewer than a request has attempts."""
STARTING_S = 2.0
"""At most this long after a worker was started again it is killed once more; it takes longer to be ready."""


class State(StrEnum):
    DONE = "done"
    SKIPPED = "skipped"
    """No worker of the role was there to be hit, or no connection to be hurt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One fault, carried out."""

    fault: Fault
    at_s: float
    """Since the load began."""
    victim: str
    """Name of the worker; empty when there was none."""
    state: State = State.DONE
    moment: Moment
    """What the load was at; the fault's own, unless it waited in vain."""
    recovered_s: float | None = None
    """From the kill, or the end of the stop, until the frontend could use the worker again; None: it never could."""
    was_given_up: bool = False
    """Whether the frontend had noticed that the worker is stopped."""


Say = Callable[[str], None]


@dataclass(slots=True)
class Striker:
    """Hurts one server."""

    server: LocalServer
    talk: Talk
    moments: Moments
    links: Mapping[str, LinkProxy]
    say: Say
    strikes: list[Strike] = field(default_factory=list)
    _busy: set[str] = field(default_factory=set)
    """Workers that are stopped, or not yet back."""
    _start_s: float = 0.0

    async def run(self, faults: tuple[Fault, ...]) -> None:
        """Return when every fault is over and every worker has come back, or been waited for in vain."""
        self._start_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(max(0.0, fault.at_s - self.now_s))
                moment = await self._moment(fault)
                tasks.create_task(self._strike(fault, moment))

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._start_s

    async def _moment(self, fault: Fault) -> Moment:
        """Wait until the load is where the fault wants it; say where it is."""
        if fault.moment in (Moment.ANY, Moment.STARTING):
            return fault.moment
        try:
            async with asyncio.timeout(MOMENT_PATIENCE_S):
                await self.moments.wait(fault.moment)
        except TimeoutError:
            return Moment.ANY
        return fault.moment

    async def _strike(self, fault: Fault, moment: Moment) -> None:
        strike = Strike(fault=fault, at_s=self.now_s, victim="", moment=moment)
        victim = self._victim(fault)
        if victim is None:
            self._note(replace(strike, state=State.SKIPPED))
            return
        strike = replace(strike, victim=victim.name)
        self.say(f"{strike.at_s:7.1f} s  {fault.action} {victim.name} ({moment})")
        match fault.action:
            case Action.KILL:
                strike = await self._kill(strike, victim)
            case Action.STOP:
                strike = await self._stop(strike, victim)
            case _:
                strike = await self._hurt_link(strike, self.links[victim.name])
        self._note(strike)

    def _note(self, strike: Strike) -> None:
        self.strikes.append(strike)

    def _victim(self, fault: Fault) -> Worker | None:
        """One of the role that is in use: of the others there is nothing to hurt."""
        found = [worker for _, worker in sorted(workers(self.server.up_pid).items()) if worker.role == fault.role]
        there = [worker for worker in found if worker.name not in self._busy]
        return there[fault.pick % len(there)] if there else None

    # -- workers -----------------------------------------------------------------------------------------------------

    async def _kill(self, strike: Strike, victim: Worker) -> Strike:
        self._busy.add(victim.name)
        try:
            killed_s = time.monotonic()
            _signal(victim, signal.SIGKILL)
            if strike.moment is Moment.STARTING:
                victim = await self._kill_again(victim, strike.fault.pick % 100 / 100 * STARTING_S)
            return await self._recovery(strike, victim, killed_s)
        finally:
            self._busy.discard(victim.name)

    async def _stop(self, strike: Strike, victim: Worker) -> Strike:
        self._busy.add(victim.name)
        try:
            _signal(victim, signal.SIGSTOP)
            try:
                await asyncio.sleep(strike.fault.lasts_s)
                strike = replace(strike, was_given_up=victim.name not in await self._ready())
            finally:  # whoever ends the suite leaves nobody stopped
                _signal(victim, signal.SIGCONT)
            return await self._recovery(strike, None, time.monotonic(), victim.name)
        finally:
            self._busy.discard(victim.name)

    async def _recovery(self, strike: Strike, dead: Worker | None, since_s: float, name: str = "") -> Strike:
        """Wait until the frontend can use the worker: another process, if the one there was is `dead`."""
        name = dead.name if dead else name
        while time.monotonic() - since_s < RECOVERY_PATIENCE_S:
            now = workers(self.server.up_pid).get(name)
            is_there = now is not None and (dead is None or now.pid != dead.pid)
            if is_there and name in await self._ready():
                return replace(strike, recovered_s=time.monotonic() - since_s)
            await asyncio.sleep(LOOK_S)
        return strike

    async def _ready(self) -> frozenset[str]:
        try:
            return await self.talk.ready_workers()
        except grpc.aio.AioRpcError:
            return frozenset()

    async def _kill_again(self, dead: Worker, delay_s: float) -> Worker:
        """Kill the process that takes the place of `dead` while it starts; return it."""
        since_s = time.monotonic()
        while (new := workers(self.server.up_pid).get(dead.name)) is None or new.pid == dead.pid:
            if time.monotonic() - since_s > RECOVERY_PATIENCE_S:
                return dead  # nobody started it: that it does not recover is what is told
            await asyncio.sleep(LOOK_S / 4)
        await asyncio.sleep(delay_s)
        _signal(new, signal.SIGKILL)
        return new

    # -- links -------------------------------------------------------------------------------------------------------

    async def _hurt_link(self, strike: Strike, link: LinkProxy) -> Strike:
        fault = strike.fault
        match fault.action:
            case Action.CUT:
                return strike if link.cut() else replace(strike, state=State.SKIPPED)
            case Action.DELAY:
                await link.delay(fault.lasts_s)
            case _:
                num_pieces = 1 + fault.pick % MAX_CORRUPTED
                if not await link.corrupt(num_pieces, fault.lasts_s, fault.pick):
                    return replace(strike, state=State.SKIPPED)
        return strike


def _signal(worker: Worker, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it died by itself, or of another fault
        os.kill(worker.pid, number)
