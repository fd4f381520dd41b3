"""Between the streams to frontends, the step loop and the transport to decode workers.

One `Outgoing` per leg carries its blocks: what the step reports as ready is sent in order, then the commit. However it
ends (taken by the peer, failed, given up, or the answer ended with its first token), `Close` tells the step loop that
nobody reads the blocks any more; what that frees strikes the leg off. A leg whose answer is a single token has none.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from engine.blocks import CacheChanges
from engine.constraints import Constraints
from engine.custody import inspect
from engine.errors import InvalidRequest, ProtocolError, TandemError, TransferFailed
from engine.grammar import Grammars
from engine.identity import Identity
from engine.leg import Leg, Row
from engine.sequence import Sequence as Prompt
from engine.sequence import SequenceId
from engine.session import Sessions
from engine.steploop import StepLoop
from engine.telemetry import about
from engine.wire import custody_to, finish_to, histogram_to, logprobs_to, scores_to, sequence_from
from kvtransfer.endpoints import Senders, check_layout, choose
from kvtransfer.link_meter import LinkMeter
from kvtransfer.transport import Commit, Ticket
from kvtransfer.wire import ticket_from_proto
from prefill.scheduler import BlocksReady, Freed, PromptDone
from prefill.spans import PrefillSpans, TransferSpan
from prefill.worker import (
    Close,
    Command,
    Compute,
    DeadEnd,
    Event,
    FirstToken,
    GiveUp,
    PrefillWorker,
    Queued,
    Refused,
    Scored,
)
from protos import worker_pb2 as pb

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outgoing:
    """The transfer of one leg's blocks."""

    ready: asyncio.Queue[BlocksReady | PromptDone]
    task: "asyncio.Task[None]"


class PrefillService:
    """The prefill role behind `Sessions`."""

    def __init__(
        self,
        worker: PrefillWorker,
        loop: StepLoop[Command, Event],
        senders: Senders,
        who: Identity,
        spans: PrefillSpans,
        grammars: Grammars | None = None,
    ) -> None:
        self.sessions = Sessions(self, who.lease_s)
        self._constraints = Constraints(grammars, self.sessions)
        self._worker = worker
        self._loop = loop
        self._senders = senders
        self._who = who
        self._spans = spans
        self._outgoing: dict[SequenceId, Outgoing] = {}

    # -- Role --------------------------------------------------------------------------------------------------------

    def hello(self) -> pb.Hello:
        return self._who.hello(self._senders.transports)

    def admit(self, leg: Leg, admit: pb.Admit) -> None:
        sequence = sequence_from(leg.id, admit, self._who)
        ticket: Ticket | None = None
        match admit.WhichOneof("work"):
            case "push":
                ticket = self._ticket(admit.push, sequence)
            case "single_token":
                if sequence.num_output + 1 != sequence.params.max_tokens:
                    raise InvalidRequest("the answer may have more than a single token", field="work")
            case _:
                raise InvalidRequest("a prefill worker takes `push` and `single_token` legs", field="work")
        self._constraints.then(leg, sequence, admit.grammar, partial(self._compute, leg, sequence, ticket))

    def _ticket(self, push: pb.Push, sequence: Prompt) -> Ticket:
        """Raises InvalidRequest if it cannot be filled from here."""
        who = self._who
        try:
            ticket = ticket_from_proto(push.ticket)
            check_layout(ticket, who.layout, who.block_bytes)
            choose(ticket.endpoints, self._senders.transports)
        except ProtocolError as error:
            raise InvalidRequest(error.message, field="ticket") from error
        if ticket.num_blocks != -(-len(sequence.tokens) // who.block_tokens):
            raise InvalidRequest(f"the ticket's {ticket.num_blocks} blocks do not fit the prompt", field="ticket")
        return ticket

    def _compute(self, leg: Leg, sequence: Prompt, ticket: Ticket | None) -> None:
        if ticket is not None:
            ready: asyncio.Queue[BlocksReady | PromptDone] = asyncio.Queue()
            task = asyncio.create_task(self._push(leg, ticket, ready))
            task.add_done_callback(lambda _: self._close(leg.id))
            self._outgoing[leg.id] = Outgoing(ready, task)
        self._loop.submit(Compute(sequence))

    def regrant(self, leg: Leg, regrant: pb.Regrant) -> None:
        raise InvalidRequest("a prefill worker grants no room")

    def abort(self, leg: Leg) -> None:
        self._loop.submit(GiveUp(leg.id))  # at once: the transfer may take a moment to let go
        self._end_transfer(leg.id)

    def keep_trace(self, trace_id: bytes) -> None:
        self._spans.keep(trace_id)

    def load(self) -> pb.Load:
        load = self._worker.load
        return pb.Load(
            free_blocks=load.free_blocks,
            cached_blocks=load.cached_blocks,
            leaked_blocks=load.leaked_blocks,
            running=load.running,
            waiting=load.waiting,
            waiting_tokens=load.waiting_tokens,
            prefill_tokens_per_s=load.tokens_per_s,
            slowdown=load.slowdown,
            transfer_bytes_per_s=self._senders.bytes_per_s,
            links=map(_link_to, self._senders.links),
            step_seconds=histogram_to(load.steps.seconds),
            step_sequences=histogram_to(load.steps.sequences),
            step_tokens=histogram_to(load.steps.tokens),
        )

    async def custody(self) -> pb.GetCustodyResponse:
        return self._who.sign(custody_to(await inspect(self._loop.submit)))

    # -- the step's events -------------------------------------------------------------------------------------------

    def deliver(self, events: Sequence[Event]) -> None:
        """Take in what one step reports; called on the event loop."""
        for event in events:
            match event:
                case FirstToken():
                    self._first_token(event)
                case Queued(sequence_id):
                    if leg := self.sessions.leg(sequence_id):
                        self.sessions.send(sequence_id, granted=pb.Granted(leg=leg.number))
                case Scored(sequence_id, scores):
                    if leg := self.sessions.leg(sequence_id):
                        self.sessions.send(sequence_id, prompt_scores=scores_to(leg.number, scores))
                case DeadEnd():
                    self._dead_end(event)
                case Freed(sequence_id):
                    self._outgoing.pop(sequence_id, None)
                    self.sessions.released(sequence_id)
                case Refused(sequence_id, too_large, message):
                    if outgoing := self._outgoing.pop(sequence_id, None):
                        outgoing.task.cancel()
                    self.sessions.refuse(sequence_id, message, too_large=too_large)
                case BlocksReady(sequence_id):
                    if outgoing := self._outgoing.get(sequence_id):
                        outgoing.ready.put_nowait(event)
                case CacheChanges():
                    self.sessions.publish(event)
        self.sessions.report_load()  # the router weighs what waits here against computing elsewhere

    def _first_token(self, event: FirstToken) -> None:
        """Token 1 goes to the frontend before the transfer's commit goes to decode."""
        done = event.done
        leg = self.sessions.leg(done.id)
        if leg is not None:
            self.sessions.send(
                done.id,
                prefill_done=pb.PrefillDone(
                    leg=leg.number,
                    cached_tokens=done.num_cached,
                    num_chunks=done.num_chunks,
                    queue_ns=event.chunks[0].start_ns - event.queued_ns,
                    compute_ns=event.end_ns - event.chunks[0].start_ns,
                ),
            )
            logprobs, vector = logprobs_to(event.logprobs), event.vector
            row = Row(done.id, done.index, done.token, finish_to(done.finish), False, logprobs, vector)
            self.sessions.send_steps(event.chunks[-1].start_ns, event.end_ns, [row])
            self._spans.prefilled(leg, event)
        if done.finish is not None:
            self._end_transfer(done.id)
        elif outgoing := self._outgoing.get(done.id):
            outgoing.ready.put_nowait(done)

    def _dead_end(self, event: DeadEnd) -> None:
        if leg := self.sessions.leg(event.id):
            reason = pb.FAILURE_REASON_DEAD_END
            self.sessions.send(leg.id, failed=pb.Failed(leg=leg.number, reason=reason, message=event.message))
        self._end_transfer(event.id)

    # -- the transfer ------------------------------------------------------------------------------------------------

    async def _push(self, leg: Leg, ticket: Ticket, ready: asyncio.Queue[BlocksReady | PromptDone]) -> None:
        """Send blocks as they become ready, then the commit."""
        span: TransferSpan | None = None
        failure: TandemError | None = TransferFailed("the transfer broke off")
        try:
            while True:
                item = await ready.get()
                span = span or self._spans.transfer(leg, ticket, choose(ticket.endpoints, self._senders.transports))
                if isinstance(item, PromptDone):
                    break
                skip = max(0, ticket.first_block - item.first)
                if blocks := item.blocks[skip:]:
                    await self._senders.send(ticket, item.first + skip, blocks)
            await self._senders.commit(ticket, Commit(item.token, span.traceparent))
            failure = None
        except asyncio.CancelledError:
            failure = None
            raise
        except TandemError as error:
            failure = error
        finally:
            if span is not None:
                span.finish(failure.reason if failure else None)
            if failure is not None:
                self._say_failed(leg, failure)

    def _close(self, sequence_id: SequenceId) -> None:
        """However a transfer ended, was cancelled before it began, or if there was none: the step loop learns of it."""
        self._loop.submit(GiveUp(sequence_id))
        self._loop.submit(Close(sequence_id))

    def _say_failed(self, leg: Leg, failure: TandemError) -> None:
        log.warning("a transfer failed: %s", failure.message, extra=about(leg.request_id, leg.traceparent))
        failed = pb.Failed(leg=leg.number, reason=pb.FAILURE_REASON_TRANSFER, message=failure.message)
        self.sessions.send(leg.id, failed=failed)

    def _end_transfer(self, sequence_id: SequenceId) -> None:
        if outgoing := self._outgoing.get(sequence_id):
            outgoing.task.cancel()
        else:
            self._close(sequence_id)

    async def aclose(self) -> None:
        """Cancel what is still being sent and let go of the transport."""
        tasks = [outgoing.task for outgoing in self._outgoing.values()]
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._senders.aclose()


def _link_to(meter: LinkMeter) -> pb.KvLink:
    return pb.KvLink(
        decode_worker_id=meter.worker_id,
        transport=meter.transport,
        size_bytes=meter.size_bytes,
        transfers=meter.transfers,
        failures=meter.failures,
        bytes_per_s=meter.bytes_per_s,
        in_flight=meter.in_flight,
        in_flight_bytes=meter.in_flight_bytes,
    )
