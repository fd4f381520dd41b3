"""One attempt at a request on the workers: a place is found, the prompt is computed, tokens come in order.

 1. `_place` waits for the turn and for room, and sends `Admit` to the decode worker the router chose.
 2. The worker grants: with a ticket, for which `Admit` then goes to a prefill worker; or without, and prefills itself.
 3. Tokens are handed on in the order of their numbers: token 1 comes from whoever prefilled, the rest from decode, over
    streams that know nothing of each other.
 4. Whatever ends the attempt, legs that are not over are aborted; the workers free what they hold.

An attempt that loses a worker raises `Interrupted`; its tokens so far stand, and the next attempt continues after them.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from engine.errors import ContextOverflow, Overloaded, TandemError, Unavailable
from frontend.admission import Admission
from frontend.fleet import Fleet
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.link import Leg, LegEvent, Link, Lost, Row
from frontend.router import Placement, Policy, WorkerView, can_ever_serve, place
from protos import worker_pb2 as pb


class Interrupted(TandemError):
    """The attempt's workers failed it; another attempt may do better. Never reaches a client as such."""


@dataclass(slots=True)
class Attempts:
    """Makes attempts at jobs over a fleet."""

    fleet: Fleet
    admission: Admission
    policy: Policy
    queue_timeout_s: float
    hop_s: float = 0.002
    """Measured: what a leg on a prefill worker costs beside waiting and computing there."""

    async def run(self, job: Job) -> AsyncGenerator[list[Row], None]:
        """Nothing, once workers have taken the job; then its tokens in order, those that are there at once together,
        until one carries a finish reason.

        Raises Interrupted when a worker fails the attempt, Overloaded when no room was found in time, Unavailable when
        no worker serves the model, ContextOverflow when none could ever hold the request.
        """
        job.attempt += 1
        legs = _Legs(job)
        try:
            try:
                async with asyncio.timeout(self.queue_timeout_s):
                    placement = await self._place(job, legs)
            except TimeoutError:
                message = f"no worker took the request within {self.queue_timeout_s:g} s"
                raise Overloaded(message, retry_after_s=self.queue_timeout_s / 4) from None
            yield []
            while True:
                rows = await legs.rows()
                if rows[0].index == 0 and placement.prefill is not None:
                    self._note_hop(job.ledger)
                yield rows
                if rows[-1].finish:
                    return
        finally:
            legs.abort()

    async def _place(self, job: Job, legs: "_Legs") -> Placement:
        """Find room, and have the workers promise it."""
        returning = job.attempt > 1
        while True:
            async with self.admission.turn(len(job.tokens), first=returning, caller=job.caller):
                placement = job.placement = await self._find_room(job)
                leg = self._send_to_decode(job, placement, legs)
            answer = await legs.answer(leg)
            if isinstance(answer, pb.Granted):
                job.note_granted(answer)
            if isinstance(answer, pb.Granted) and placement.prefill is not None:
                leg = self._send_to_prefill(job, placement.prefill, answer, legs)
                answer = await legs.answer(leg)
            if isinstance(answer, pb.Granted):
                return placement
            _raise_if_final(answer)
            legs.abort()
            returning = True  # room went to somebody else meanwhile: look again, before those who come now

    async def _find_room(self, job: Job) -> Placement:
        while True:
            decodes = [link.view for link in self.fleet.links(pb.ROLE_DECODE) if link.view is not None]
            prefills = [link.view for link in self.fleet.links(pb.ROLE_PREFILL) if link.view is not None]
            _check_servable(job, decodes)
            began_ns = time.monotonic_ns()
            placement = place(job.need(), decodes, prefills, self.policy, self.hop_s)
            if not job.num_output:
                job.ledger.route_ns += time.monotonic_ns() - began_ns
            if placement is not None:
                return placement
            await self.fleet.pulse.wait()

    def _send_to_decode(self, job: Job, placement: Placement, legs: "_Legs") -> Leg:
        admit = job.admit()
        if placement.prefill is None:
            admit.local.SetInParent()
        else:
            admit.reserve.SetInParent()
        return legs.add(self._link(pb.ROLE_DECODE, placement.decode), admit)

    def _send_to_prefill(self, job: Job, view: WorkerView, granted: pb.Granted, legs: "_Legs") -> Leg:
        admit = job.admit()
        admit.push.ticket.CopyFrom(granted.ticket)
        return legs.add(self._link(pb.ROLE_PREFILL, view), admit)

    def _link(self, role: "pb.Role", view: WorkerView) -> Link:
        link = next((link for link in self.fleet.links(role) if link.view is view), None)
        if link is None:
            raise Interrupted(f"worker {view.worker_id} went away")
        return link

    def _note_hop(self, ledger: Ledger) -> None:
        """A first token came from a prefill worker: what took neither waiting nor computing there was the hop."""
        hop_ns = time.monotonic_ns() - ledger.granted_ns - ledger.queue_ns - ledger.compute_ns
        self.hop_s += 0.2 * (max(hop_ns, 0) / 1e9 - self.hop_s)


@dataclass(slots=True)
class _Legs:
    """The legs of one attempt and what they say."""

    job: Job
    _inbox: "_Inbox" = field(default_factory=lambda: _Inbox())
    _legs: list[Leg] = field(default_factory=list)
    _early: dict[int, Row] = field(default_factory=dict)
    """Tokens that wait for one before them."""
    _failure: Interrupted | None = None

    def add(self, link: Link, admit: pb.Admit) -> Leg:
        leg = link.admit(admit, self._inbox)
        self._legs.append(leg)
        return leg

    def abort(self) -> None:
        for leg in self._legs:
            leg.abort()

    async def answer(self, leg: Leg) -> pb.Granted | pb.Refused:
        """Wait for the worker's answer to this leg. Raises Interrupted when a worker fails meanwhile."""
        while self._failure is None:
            if (item := self._inbox.pop()) is None:
                await self._inbox.wait()
                continue
            sender, event = item
            self._note(sender, event)
            if sender is leg and isinstance(event, pb.Granted | pb.Refused):
                return event
        raise self._failure

    async def rows(self) -> list[Row]:
        """The tokens that come next, gapless. Raises Interrupted when a worker fails.

        That comes after the tokens that came before it: they are in `job.tokens`, so that no attempt repeats them.
        """
        while not (rows := self._in_order()):
            if self._failure is not None:
                raise self._failure
            await self._inbox.wait()
            for sender, event in self._inbox.pop_all():
                self._note(sender, event)
        return rows

    def _in_order(self) -> list[Row]:
        rows: list[Row] = []
        early, tokens, index = self._early, self.job.tokens, self.job.num_output
        while early and (row := early.pop(index, None)) is not None:
            tokens.append(row.token)
            rows.append(row)
            index += 1
        return rows

    def _note(self, sender: Leg, event: LegEvent) -> None:
        if not sender.wanted:
            return  # it was given up; what it still says is of no account
        if isinstance(event, Row):
            self._early[event.index] = event
            return
        ledger = self.job.ledger
        match event:
            case pb.PrefillDone():
                if not ledger.first_token_ns:
                    ledger.queue_ns, ledger.compute_ns = event.queue_ns, event.compute_ns
                    self.job.cached_tokens = max(self.job.cached_tokens, event.cached_tokens)
            case pb.KvArrived():
                if not ledger.second_token_ns:
                    ledger.commit_ns = event.commit_ns
            case Lost(reason):
                self._failure = Interrupted(reason)
            case pb.Failed():
                self._failure = Interrupted(f"{pb.FailureReason.Name(event.reason)}: {event.message}")


@dataclass(slots=True)
class _Inbox:
    """A queue with one reader. Every token passes it: waiting and putting cost a third of what `asyncio.Queue`'s do."""

    _items: "deque[tuple[Leg, LegEvent]]" = field(default_factory=deque)
    _waiter: "asyncio.Future[None] | None" = None

    def put_nowait(self, item: tuple[Leg, LegEvent], /) -> None:
        self._items.append(item)
        if self._waiter is not None:
            if not self._waiter.done():  # cancelled
                self._waiter.set_result(None)
            self._waiter = None

    async def wait(self) -> None:
        """Return once there is something."""
        if not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def pop_all(self) -> "deque[tuple[Leg, LegEvent]]":
        """Everything there is, oldest first."""
        items, self._items = self._items, deque()
        return items

    def pop(self) -> tuple[Leg, LegEvent] | None:
        """The oldest item, None if there is none."""
        return self._items.popleft() if self._items else None


def _raise_if_final(refused: pb.Refused) -> None:
    match refused.reason:
        case pb.REFUSAL_REASON_TOO_LARGE:
            raise ContextOverflow(refused.message)
        case pb.REFUSAL_REASON_INVALID:
            raise Interrupted(refused.message)


def _check_servable(job: Job, decodes: list[WorkerView]) -> None:
    """Raises what waiting cannot mend. Who was interrupted waits for workers to come back."""
    serving = [view for view in decodes if view.model == job.model and not view.draining]
    if not serving and job.attempt == 1:
        raise Unavailable(f"no decode worker serves {job.model} now")
    if serving and not can_ever_serve(job.need(), serving):
        longest = max(view.max_context for view in serving)
        raise ContextOverflow(f"prompt and answer may get {job.need().max_tokens} tokens; workers hold {longest}")
