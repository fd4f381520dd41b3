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
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

from engine.errors import ContextOverflow, Overloaded, TandemError, Unavailable
from engine.sequence import BlockHash, SamplingParams
from engine.wire import sampling_to
from frontend.admission import Admission
from frontend.fleet import Fleet, Leg, LegEvent, Link, Lost, Row
from frontend.ledger import Ledger
from frontend.router import Need, Placement, Policy, WorkerView, can_ever_serve, place
from protos import worker_pb2 as pb

REFUSED_RETRY_S = 0.02
"""A worker that refused is asked again after this, or as soon as anything is heard of any worker."""


class Interrupted(TandemError):
    """The attempt's workers failed it; another attempt may do better. Never reaches a client as such."""


@dataclass(slots=True)
class Job:
    """A request on its way, over all its attempts."""

    request_id: str
    model: str
    tokens: list[int]
    """Prompt and output so far."""
    num_prompt: int
    params: SamplingParams
    hash_root: BlockHash
    hashes: list[BlockHash]
    """Of the prompt's full blocks."""
    traceparent: str
    ledger: Ledger
    cached_tokens: int = 0
    attempt: int = 0
    placement: Placement | None = None

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    def need(self) -> Need:
        return Need(self.model, len(self.tokens), self.num_prompt + self.params.max_tokens, tuple(self.hashes))

    def admit(self) -> pb.Admit:
        return pb.Admit(
            request_id=self.request_id,
            attempt=self.attempt,
            token_ids=self.tokens,
            num_prompt=self.num_prompt,
            block_hashes=b"".join(self.hashes),
            hash_root=self.hash_root,
            sampling=sampling_to(self.params),
            traceparent=self.traceparent,
        )


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
        """Tokens in order, those that are there at once together, until one carries a finish reason.

        Raises Interrupted when a worker fails the attempt, Overloaded when no room was found in time, Unavailable when
        no worker serves the model, ContextOverflow when none could ever hold the request.
        """
        job.attempt += 1
        legs = _Legs()
        try:
            placement, granted = await self._place(job, legs)
            sent_ns = time.monotonic_ns()
            if not job.num_output:
                job.cached_tokens = granted.cached_tokens
                job.ledger.granted_ns = sent_ns
            if placement.prefill is not None:
                self._send_to_prefill(job, placement.prefill, granted, legs)
            yield []  # taken: whatever could be refused was
            async for rows in legs.rows(job):
                if job.ledger.compute_ns and sent_ns and placement.prefill is not None:
                    self._note_hop(time.monotonic_ns() - sent_ns - job.ledger.queue_ns - job.ledger.compute_ns)
                    sent_ns = 0
                yield rows
                if rows[-1].finish:
                    return
        finally:
            legs.abort()

    async def _place(self, job: Job, legs: "_Legs") -> tuple[Placement, pb.Granted]:
        """Find room, and a decode worker's promise of it."""
        returning = job.attempt > 1
        deadline = time.monotonic() + self.queue_timeout_s
        while True:
            async with self.admission.turn(len(job.tokens), first=returning):
                placement = await self._find_room(job, deadline)
                link = self._link(pb.ROLE_DECODE, placement.decode)
                admit = job.admit()
                if placement.prefill is None:
                    admit.local.SetInParent()
                else:
                    admit.reserve.SetInParent()
                leg = legs.add(link.admit(admit, legs.inbox))
            job.placement = placement
            answer = await legs.answer(leg)
            if isinstance(answer, pb.Granted):
                return placement, answer
            _raise_if_final(answer)
            returning = True  # room went to somebody else meanwhile: look again, before everybody else
            with suppress(TimeoutError):
                await asyncio.wait_for(self.fleet.pulse.wait(), REFUSED_RETRY_S)

    async def _find_room(self, job: Job, deadline: float) -> Placement:
        while True:
            decodes = [link.view for link in self.fleet.links(pb.ROLE_DECODE) if link.view is not None]
            prefills = [link.view for link in self.fleet.links(pb.ROLE_PREFILL) if link.view is not None]
            if job.attempt == 1:
                _check_servable(job, decodes)
            began_ns = time.monotonic_ns()
            placement = place(job.need(), decodes, prefills, self.policy, self.hop_s)
            job.ledger.route_ns += time.monotonic_ns() - began_ns
            if placement is not None:
                return placement
            try:
                async with asyncio.timeout_at(_loop_time(deadline)):
                    await self.fleet.pulse.wait()
            except TimeoutError:
                message = f"no worker had room within {self.queue_timeout_s:g} s"
                raise Overloaded(message, retry_after_s=self.queue_timeout_s / 4) from None

    def _send_to_prefill(self, job: Job, view: WorkerView, granted: pb.Granted, legs: "_Legs") -> None:
        link = self._link(pb.ROLE_PREFILL, view)
        admit = job.admit()
        admit.push.ticket.CopyFrom(granted.ticket)
        legs.add(link.admit(admit, legs.inbox))

    def _link(self, role: "pb.Role", view: WorkerView) -> Link:
        link = next((link for link in self.fleet.links(role) if link.view is view), None)
        if link is None:
            raise Interrupted(f"worker {view.worker_id} went away")
        return link

    def _note_hop(self, hop_ns: int) -> None:
        self.hop_s += 0.2 * (max(hop_ns, 0) / 1e9 - self.hop_s)


@dataclass(slots=True)
class _Legs:
    """The legs of one attempt and what they say."""

    inbox: "asyncio.Queue[tuple[Leg, LegEvent]]" = field(default_factory=asyncio.Queue)
    _legs: list[Leg] = field(default_factory=list)

    def add(self, leg: Leg) -> Leg:
        self._legs.append(leg)
        return leg

    def abort(self) -> None:
        for leg in self._legs:
            leg.abort()

    async def answer(self, leg: Leg) -> pb.Granted | pb.Refused:
        """Wait for this leg's first event."""
        while True:
            sender, event = await self.inbox.get()
            if sender is not leg:
                continue
            if isinstance(event, pb.Granted | pb.Refused):
                return event
            raise _interruption(event)

    async def rows(self, job: Job) -> AsyncGenerator[list[Row], None]:
        """The answer's tokens from `job.num_output` on, gapless; what else the workers say goes into the ledger."""
        early: dict[int, Row] = {}
        while True:
            events = [await self.inbox.get()]
            while not self.inbox.empty():
                events.append(self.inbox.get_nowait())
            rows: list[Row] = []
            failure: Interrupted | None = None
            for _, event in events:
                if isinstance(event, Row):
                    early[event.index] = event
                    while (row := early.pop(job.num_output, None)) is not None:
                        job.tokens.append(row.token)
                        rows.append(row)
                else:
                    failure = failure or self._note(job, event)
            if rows:  # also those that came with the failure: they are in `job.tokens`, so no attempt repeats them
                yield rows
            if failure is not None:
                raise failure

    def _note(self, job: Job, event: LegEvent) -> Interrupted | None:
        match event:
            case pb.PrefillDone():
                if not job.ledger.first_token_ns:
                    job.ledger.queue_ns, job.ledger.compute_ns = event.queue_ns, event.compute_ns
                    job.cached_tokens = max(job.cached_tokens, event.cached_tokens)
            case pb.KvArrived():
                job.ledger.commit_ns = event.commit_ns
            case pb.Granted() | pb.Released():
                pass
            case _:
                return _interruption(event)
        return None


def _interruption(event: LegEvent) -> Interrupted:
    match event:
        case Lost(reason):
            return Interrupted(reason)
        case pb.Failed():
            return Interrupted(f"{pb.FailureReason.Name(event.reason)}: {event.message}")
        case pb.Refused():
            return Interrupted(f"{pb.RefusalReason.Name(event.reason)}: {event.message}")
        case _:
            return Interrupted("the worker let go of the request")


def _raise_if_final(refused: pb.Refused) -> None:
    match refused.reason:
        case pb.REFUSAL_REASON_TOO_LARGE:
            raise ContextOverflow(refused.message)
        case pb.REFUSAL_REASON_INVALID:
            raise Interrupted(refused.message)


def _check_servable(job: Job, decodes: list[WorkerView]) -> None:
    if not any(view.model == job.model and not view.draining for view in decodes):
        raise Unavailable(f"no decode worker serves {job.model} now")
    if not can_ever_serve(job.need(), decodes):
        longest = max(view.max_context for view in decodes if view.model == job.model)
        raise ContextOverflow(f"prompt and answer may get {job.need().max_tokens} tokens; workers hold {longest}")


def _loop_time(monotonic: float) -> float:
    """`asyncio` timeouts use the event loop's clock."""
    return asyncio.get_running_loop().time() + monotonic - time.monotonic()
