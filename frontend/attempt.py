"""One attempt at a request on the workers: a place is found, the prompt is computed, tokens come in order.

 1. `_place` waits for the turn and for room, and sends `Admit` to the decode worker the router chose.
 2. The worker grants: with a ticket, for which `Admit` then goes to a prefill worker; or without, and prefills itself.
    An answer of a single token needs no such room: a prefill worker gives it, past those who wait for decode workers.
 3. Tokens are handed on in the order of their numbers (`frontend.legs`).
 4. Whatever ends the attempt, legs that are not over are aborted; the workers free what they hold.

An attempt that loses a worker raises `Interrupted`; its tokens so far stand, and the next attempt continues after them.
If that was the prefill worker, the room on decode is kept for the next attempt, until `run` or `let_go` is called.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field

from engine.errors import ContextOverflow
from frontend.admission import Admission, Displaced
from frontend.fleet import Fleet
from frontend.job import Job
from frontend.leg_events import Row
from frontend.legs import Interrupted, Legs
from frontend.link import Leg, Link
from frontend.outlook import Outlook
from frontend.places import Places
from frontend.router import Placement, Policy
from frontend.worker_view import WorkerView
from protos import worker_pb2 as pb


@dataclass(slots=True)
class Attempts:
    """Makes attempts at jobs over a fleet."""

    fleet: Fleet
    admission: Admission
    policy: Policy
    queue_timeout_s: float
    ttft_slo_s: float = 0.0
    places: Places = field(init=False)
    outlook: Outlook = field(init=False)
    _kept: dict[str, Legs] = field(default_factory=dict)
    """Room on decode workers that outlived its prefill worker, by request id."""

    def __post_init__(self) -> None:
        self.places = Places(self.fleet, self.policy)
        self.outlook = Outlook(self.places, self.admission, self.queue_timeout_s, self.ttft_slo_s)

    async def run(self, job: Job) -> AsyncGenerator[list[Row], None]:
        """Nothing, once workers have taken the job; then its tokens in order, those that are there at once together,
        until one carries a finish reason.

        Raises Interrupted when a worker fails the attempt, Overloaded when there is no room in time or will not be,
        Unavailable when no worker serves the model, ContextOverflow when none could ever hold the request.
        """
        job.attempt += 1
        single = self._single_past_queue(job)
        if job.attempt == 1 and single is None:
            self.outlook.check(job)
        legs = self._kept.pop(job.request_id, None) or Legs(job)
        try:
            try:
                async with asyncio.timeout(self.queue_timeout_s):
                    placement = await self._place(job, legs, single)
            except TimeoutError:
                raise self.outlook.timed_out(job) from None
            except Displaced:
                raise self.outlook.displaced(job) from None
            yield []
            while True:
                rows = await legs.rows()
                if rows[0].index == 0:
                    self.outlook.first_token(job)
                    if placement.prefill is not None and placement.decodes:
                        self.places.note_hop(job.ledger)
                yield rows
                if rows[-1].finish:
                    self.outlook.ended(job)
                    return
        except Interrupted as error:
            if error.by_transfer and job.placement is not None:
                self.places.note_failed_transfer(job.placement)
            if legs.keep_room():
                self._kept[job.request_id] = legs
            raise
        finally:
            self.outlook.left(job)
            if self._kept.get(job.request_id) is not legs:
                legs.abort()

    def let_go(self, job: Job) -> None:
        """No further attempt is made soon; harmless when nothing was kept."""
        if legs := self._kept.pop(job.request_id, None):
            legs.abort()

    def _single_past_queue(self, job: Job) -> Placement | None:
        """Who gives an answer of a single token in time while others wait for decode workers; None where it waits with
        them, or nobody does."""
        if not (job.single_token and self.admission.queued_requests):
            return None
        placement = self.places.find_single(job)
        within_s = min(self.outlook.ttft_slo_s or math.inf, job.left_s())
        return placement if placement is not None and (placement.first_token_s or 0.0) <= within_s else None

    async def _place(self, job: Job, legs: Legs, single: Placement | None) -> Placement:
        """Find room, where it is not `single` that needs none, and have the workers promise it."""
        if legs.reserved is not None:
            self.outlook.taken(job)
            if placement := await self._place_prefill_again(job, legs):
                return placement
            self.outlook.left(job)
            legs.abort()
        returning, overtaken = job.attempt > 1, False
        if self.admission.overtakes(job.caller):
            self.fleet.pulse.beat()  # who has the turn looks up
        while True:
            with ExitStack() as until_granted:
                turn = self.admission.turn(job.demand(), first=returning, again=overtaken, caller=job.caller)
                async with turn if single is None else nullcontext():
                    found = single or await self._find_room(job, yields=not returning)
                    if found is None:
                        self.admission.give_back(job.caller, job.demand())
                        overtaken = True
                        continue
                    placement = job.place(found)
                    leg = self._send_first(job, placement, legs, until_granted)
                answer = await legs.answer(leg)
            if isinstance(answer, pb.Granted):
                job.note_granted(answer)
                if not placement.decodes:
                    return placement
                if filled := await self._place_prefill(job, placement, answer, legs):
                    return filled
            elif isinstance(answer, pb.Refused):
                _raise_if_final(answer)
            self.outlook.left(job)
            legs.abort()
            # Room went to somebody else meanwhile: look again, before those who come now.
            returning, single = returning or single is None, None

    async def _place_prefill(self, job: Job, placement: Placement, granted: pb.Granted, legs: Legs) -> Placement | None:
        """Have the room that was granted filled, by who was chosen or by who else can when that one refuses; None when
        nobody can now."""
        while placement.prefill is not None:
            answer = await legs.answer(self._send_to_prefill(job, placement.prefill, granted, legs))
            if isinstance(answer, pb.Granted):
                break
            if isinstance(answer, pb.Refused):
                _raise_if_final(answer)
            chosen = self.places.find_prefill(job, placement.decode)
            if chosen is None:
                return None
            placement = job.place(chosen)
            if placement.prefill is None and (again := await legs.regranted(local=True)):
                job.note_granted(again)
        return placement

    async def _place_prefill_again(self, job: Job, legs: Legs) -> Placement | None:
        """Have the room that an earlier attempt has left filled. None when nobody can now."""
        assert job.placement is not None
        legs.go_on()
        if legs.arrived:
            return job.placement
        chosen = self.places.find_prefill(job, job.placement.decode)
        if chosen is None:
            return None
        placement, job.placement = job.placement, chosen
        granted = await legs.regranted(local=chosen.prefill is None)
        if granted is None:
            job.placement = placement
            return placement
        job.note_granted(granted)
        return await self._place_prefill(job, chosen, granted, legs)

    async def _find_room(self, job: Job, *, yields: bool) -> Placement | None:
        """Wait until there is some; None, if this one `yields`, once somebody has come whose priority goes before."""
        while True:
            began_ns = time.monotonic_ns()
            placement = self.places.find(job)
            if not job.num_output:
                job.ledger.route_ns += time.monotonic_ns() - began_ns
            if placement is not None:
                return placement
            if yields and self.admission.overtaken(job.caller):
                return None
            await self.fleet.pulse.wait()

    def _send_first(self, job: Job, placement: Placement, legs: Legs, until_granted: ExitStack) -> Leg:
        """To the decode worker; or to the prefill worker, if that gives all of the answer."""
        admit, prefill = job.admit(placement.decode.block_tokens), placement.prefill
        if not placement.decodes:
            admit.single_token.SetInParent()
            return legs.add(self._link(pb.ROLE_PREFILL, placement.decode), admit)
        if prefill is None:
            admit.local.SetInParent()
        else:
            admit.reserve.SetInParent()
            until_granted.enter_context(prefill.expecting(len(job.tokens) - placement.cached_tokens))
        leg = legs.add(self._link(pb.ROLE_DECODE, placement.decode), admit)
        self.outlook.taken(job)
        return leg

    def _send_to_prefill(self, job: Job, view: WorkerView, granted: pb.Granted, legs: Legs) -> Leg:
        admit = job.admit(view.block_tokens, legs.num_tokens)
        admit.push.ticket.CopyFrom(granted.ticket)
        return legs.add(self._link(pb.ROLE_PREFILL, view), admit)

    def _link(self, role: "pb.Role", view: WorkerView) -> Link:
        link = next((link for link in self.fleet.links(role) if link.view is view), None)
        if link is None:
            raise Interrupted(f"worker {view.worker_id} went away")
        return link


def _raise_if_final(refused: pb.Refused) -> None:
    match refused.reason:
        case pb.REFUSAL_REASON_TOO_LARGE:
            raise ContextOverflow(refused.message)
        case pb.REFUSAL_REASON_INVALID:
            raise Interrupted(refused.message)
