"""A prefill and a decode worker whose streams are the test, and attempts at jobs over them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

import pytest

from engine.sequence import SamplingParams
from frontend.admission import Admission
from frontend.attempt import Attempts
from frontend.callers import ANYBODY
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.leg_events import Row
from frontend.link import Link
from frontend.pulse import Pulse
from frontend.router import Policy
from protos import worker_pb2 as pb
from tests.frontend.fake_worker import FakeWorker

LENGTH = pb.FINISH_REASON_LENGTH


@dataclass
class FakeFleet:
    """Workers whose streams are the test; as `Fleet` to who makes attempts."""

    pulse: Pulse = field(default_factory=Pulse)
    workers: list[FakeWorker] = field(default_factory=list)

    def add(self, role: "pb.Role", name: str = "", **hello: object) -> FakeWorker:
        self.workers.append(FakeWorker(role, self.pulse, name, **hello))
        return self.workers[-1]

    def links(self, role: "pb.Role") -> list[Link]:
        return [worker.link for worker in self.workers if worker.role == role and worker.link.view is not None]


class Scene:
    """One prefill and one decode worker, and attempts at jobs over them."""

    def __init__(self, *, queue_timeout_s: float = 60.0, policy: Policy | None = None, prefill: bool = True) -> None:
        self.fleet = FakeFleet()
        if prefill:
            self.prefill = self.fleet.add(pb.ROLE_PREFILL)
        self.decode = self.fleet.add(pb.ROLE_DECODE)
        self.admission = Admission(100, 10_000)
        self.attempts = Attempts(
            self.fleet,  # type: ignore[arg-type]
            self.admission,
            policy or Policy(always_remote=True),
            queue_timeout_s,
        )

    @asynccontextmanager
    async def attempt(
        self, job: Job, ends: type[Exception] | None = None, *, keeps: bool = False
    ) -> AsyncIterator["Hearing"]:
        """Run one attempt, that `ends` in an error or not; at the end nothing may be left of it anywhere, but for the
        room on decode if it `keeps` that."""
        with pytest.raises(ends) if ends else nullcontext():
            async with aclosing(self.attempts.run(job)) as rows:
                yield Hearing(rows)
        if keeps:
            assert self.left() == [self.decode.name]
        else:
            self.attempts.let_go(job)
            assert self.left() == []
            assert self.attempts._kept == {}

    def left(self) -> list[object]:
        """Who holds something still, after every worker has answered the aborts it was sent."""
        for worker in self.fleet.workers:
            worker.release_aborted()
        left: list[object] = [w.name for w in self.fleet.workers for leg in w.link._legs.values() if leg.wanted]
        return left + [1] * self.admission.queued_requests

    async def granted(self, hearing: "Hearing") -> tuple[int, int]:
        """Play until both workers have taken the job; their legs on prefill and decode."""
        taken = hearing.next()
        (reserve,) = await admits(self.decode)
        self.decode.grant(reserve.leg, ticket={"id": "t"}, cached_tokens=4)
        (push,) = await admits(self.prefill)
        assert push.push.ticket.id == "t"
        self.prefill.grant(push.leg)
        assert await taken == []
        return push.leg, reserve.leg


class Hearing:
    """What an attempt says, one batch at a time."""

    def __init__(self, rows: AsyncIterator[list[Row]]) -> None:
        self._rows = rows

    def next(self) -> "asyncio.Task[list[Row]]":
        return asyncio.ensure_future(anext(self._rows))  # type: ignore[arg-type]

    async def tokens(self) -> list[int]:
        return [row.token for row in await asyncio.wait_for(self.next(), 5)]


async def admits(worker: FakeWorker) -> list[pb.Admit]:
    """The next `Admit` commands to come to a worker."""
    for _ in range(50):
        if found := worker.admits():
            return found
        await asyncio.sleep(0)
    return []


async def regranted(worker: FakeWorker) -> pb.Regrant:
    """The next `Regrant` to come to a worker."""
    for _ in range(50):
        if found := worker.regrants():
            (regrant,) = found
            return regrant
        await asyncio.sleep(0)
    raise AssertionError("nothing is asked of it")


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def gave_up(waiting: "asyncio.Task[list[Row]]") -> None:
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


def job(max_tokens: int = 10, num_tokens: int = 9, name: str = "r") -> Job:
    return Job(
        request_id=name,
        model="m",
        tokens=list(range(num_tokens)),
        num_prompt=num_tokens,
        params=SamplingParams(max_tokens=max_tokens, seed=1),
        caller=ANYBODY,
        hashes=[],
        traceparent="",
        ledger=Ledger(),
    )
