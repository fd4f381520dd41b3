"""Faults as they are carried out, on workers that the tests play: no process is hurt."""

import asyncio
import os
import signal
from typing import cast

import pytest

from cli.chaos.faults import Action, Fault, Moment
from cli.chaos.links import LinkProxy
from cli.chaos.load import Moments
from cli.chaos.strikes import State, Strike, Striker
from cli.chaos.talk import Talk
from cli.chaos.victims import LocalServer, Worker


class Fleet:
    """Two decode workers; one that was killed is another process, and ready, once it was looked for a few times."""

    def __init__(self, *, comes_back: bool = True) -> None:
        self.pids = {"decode-0": 10, "decode-1": 11}
        self.signals: list[tuple[str, signal.Signals]] = []
        self.comes_back = comes_back
        self.dead: dict[str, int] = {}
        self.ready = True

    def workers(self, up_pid: int) -> dict[str, Worker]:
        for name in [name for name in self.dead if self.comes_back]:
            self.dead[name] -= 1
            if not self.dead[name]:
                del self.dead[name]
                self.pids[name] += 100
        return {name: Worker(name, "decode", pid, ()) for name, pid in self.pids.items() if name not in self.dead}

    def kill(self, pid: int, number: signal.Signals) -> None:
        name = next(name for name, own in self.pids.items() if own == pid)
        self.signals.append((name, number))
        if number == signal.SIGKILL:
            self.dead[name] = 3

    async def ready_workers(self) -> frozenset[str]:
        return frozenset(self.pids.keys() - self.dead.keys() if self.ready else ())


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet()
    monkeypatch.setattr("cli.chaos.strikes.workers", made.workers)
    monkeypatch.setattr(os, "kill", made.kill)
    monkeypatch.setattr("cli.chaos.strikes.LOOK_S", 0.001)
    monkeypatch.setattr("cli.chaos.strikes.STARTING_S", 0.001)
    return made


def striker(fleet: Fleet, links: dict[str, LinkProxy] | None = None) -> Striker:
    return Striker(LocalServer(1, 2, ""), cast("Talk", fleet), Moments(), links or {}, lambda _: None)


def fault(action: Action, moment: Moment = Moment.ANY, *, pick: int = 0, lasts_s: float = 0.0) -> Fault:
    return Fault(0, 0.0, action, "decode", moment, pick, lasts_s)


async def struck(made: Striker, *faults: Fault) -> list[Strike]:
    async with asyncio.timeout(20):
        await made.run(faults)
    return made.strikes


async def test_a_killed_worker_is_waited_for(fleet: Fleet) -> None:
    (strike,) = await struck(striker(fleet), fault(Action.KILL, pick=1))
    assert fleet.signals == [("decode-1", signal.SIGKILL)]
    assert (strike.victim, strike.state) == ("decode-1", State.DONE)
    assert strike.recovered_s is not None
    assert fleet.pids == {"decode-0": 10, "decode-1": 111}


async def test_one_that_starts_is_killed_once_more(fleet: Fleet) -> None:
    (strike,) = await struck(striker(fleet), fault(Action.KILL, Moment.STARTING))
    assert fleet.signals == [("decode-0", signal.SIGKILL)] * 2
    assert strike.recovered_s is not None
    assert fleet.pids["decode-0"] == 210


async def test_one_that_does_not_come_back_is_told(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.chaos.strikes.RECOVERY_PATIENCE_S", 0.05)
    fleet.comes_back = False
    for moment in (Moment.ANY, Moment.STARTING):
        (strike,) = await struck(striker(fleet), fault(Action.KILL, moment))
        assert (strike.state, strike.recovered_s) == (State.DONE, None)


async def test_a_stopped_worker_goes_on_afterwards(fleet: Fleet) -> None:
    (strike,) = await struck(striker(fleet), fault(Action.STOP, lasts_s=0.01))
    assert fleet.signals == [("decode-0", signal.SIGSTOP), ("decode-0", signal.SIGCONT)]
    assert (strike.was_given_up, strike.recovered_s is not None) == (False, True)


async def test_it_goes_on_even_if_the_suite_is_ended(fleet: Fleet) -> None:
    running = asyncio.create_task(striker(fleet).run((fault(Action.STOP, lasts_s=60.0),)))
    async with asyncio.timeout(20):
        while not fleet.signals:  # noqa: ASYNC110 (what was signalled can only be looked at)
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert fleet.signals[-1] == ("decode-0", signal.SIGCONT)


async def test_nobody_is_hit_twice_at_once(fleet: Fleet) -> None:
    stops = [fault(Action.STOP, pick=0, lasts_s=0.2) for _ in range(3)]
    strikes = await struck(striker(fleet), *stops)
    assert sorted((strike.victim, strike.state) for strike in strikes) == [
        ("", State.SKIPPED),
        ("decode-0", State.DONE),
        ("decode-1", State.DONE),
    ]


async def test_a_fault_waits_for_its_moment_but_not_forever(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    made = striker(fleet)
    running = asyncio.create_task(struck(made, fault(Action.KILL, Moment.STREAM)))
    await asyncio.sleep(0.01)
    assert fleet.signals == []
    made.moments.reached(Moment.STREAM)
    (strike,) = await running
    assert strike.moment is Moment.STREAM
    monkeypatch.setattr("cli.chaos.strikes.MOMENT_PATIENCE_S", 0.01)
    (strike,) = await struck(striker(fleet), fault(Action.KILL, Moment.STREAM))
    assert strike.moment is Moment.ANY


class FakeLink:
    def __init__(self, found: int) -> None:
        self.found = found
        self.delayed_s: list[float] = []

    def cut(self) -> int:
        return self.found

    async def delay(self, lasts_s: float) -> None:
        self.delayed_s.append(lasts_s)

    async def corrupt(self, num_pieces: int, lasts_s: float, seed: int) -> int:
        return min(self.found, num_pieces)


@pytest.mark.parametrize(("found", "state"), [(0, State.SKIPPED), (2, State.DONE)])
@pytest.mark.parametrize("action", [Action.CUT, Action.CORRUPT])
async def test_a_link_that_carries_nothing_is_not_hurt(fleet: Fleet, action: Action, found: int, state: State) -> None:
    link = cast("LinkProxy", FakeLink(found))
    (strike,) = await struck(striker(fleet, {"decode-0": link, "decode-1": link}), fault(action))
    assert strike.state is state
    assert fleet.signals == []


async def test_a_link_is_delayed_for_as_long_as_the_fault_says(fleet: Fleet) -> None:
    link = FakeLink(0)
    links = {"decode-1": cast("LinkProxy", link)}
    (strike,) = await struck(striker(fleet, links), fault(Action.DELAY, pick=1, lasts_s=0.5))
    assert (strike.state, link.delayed_s) == (State.DONE, [0.5])
