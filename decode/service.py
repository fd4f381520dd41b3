"""Between the streams to frontends, the step loop and the receivers of KV.

Holds no state of its own: the step loop knows sequences, `Sessions` knows legs.
"""

import time
from collections.abc import Sequence
from functools import partial

from decode.messages import (
    Command,
    DeadEnd,
    Event,
    Freed,
    GiveUp,
    Granted,
    Joined,
    PrefillHere,
    PromptDone,
    Refused,
    Regrant,
    Reserve,
    Scored,
    Stepped,
)
from decode.spans import DecodeSpans
from decode.worker import DecodeWorker
from engine.blocks import CacheChanges
from engine.constraints import Constraints
from engine.custody import inspect
from engine.errors import InvalidRequest
from engine.grammar import Grammars
from engine.identity import Identity
from engine.leg import Leg, Row
from engine.session import Sessions
from engine.steploop import StepLoop
from engine.wire import custody_to, finish_to, histogram_to, logprobs_to, scores_to, sequence_from
from kvtransfer.transport import Arrived, KVReceiver
from kvtransfer.wire import ticket_to_proto
from protos import worker_pb2 as pb


class DecodeService:
    """The decode role behind `Sessions`."""

    def __init__(
        self,
        worker: DecodeWorker,
        loop: StepLoop[Command, Event],
        receivers: Sequence[KVReceiver],
        who: Identity,
        spans: DecodeSpans,
        grammars: Grammars | None = None,
    ) -> None:
        self.sessions = Sessions(self, who.lease_s)
        self._constraints = Constraints(grammars, self.sessions)
        self._worker = worker
        self._loop = loop
        self._receivers = receivers
        self._who = who
        self._spans = spans

    # -- Role --------------------------------------------------------------------------------------------------------

    def hello(self) -> pb.Hello:
        return self._who.hello(tuple(receiver.endpoint.transport for receiver in self._receivers))

    def admit(self, leg: Leg, admit: pb.Admit) -> None:
        sequence = sequence_from(leg.id, admit, self._who)
        match admit.WhichOneof("work"):
            case "reserve":
                command: Command = Reserve(sequence, leg.attempt)
            case "local":
                command = PrefillHere(sequence)
            case _:
                raise InvalidRequest("a decode worker takes `reserve` and `local` legs", field="work")
        self._constraints.then(leg, sequence, admit.grammar, partial(self._loop.submit, command))

    def regrant(self, leg: Leg, regrant: pb.Regrant) -> None:
        heard = regrant.heard if regrant.HasField("heard") else None
        if heard is not None and not 0 <= heard < self._who.vocab_size:
            raise InvalidRequest(f"no token has the id {heard}", field="heard")
        match regrant.WhichOneof("work"):
            case "reserve" | "local" as work:
                self._loop.submit(Regrant(leg.id, regrant.attempt, work == "local", heard))
            case _:
                raise InvalidRequest("neither `reserve` nor `local`", field="work")

    def abort(self, leg: Leg) -> None:
        self._loop.submit(GiveUp(leg.id))

    def keep_trace(self, trace_id: bytes) -> None:
        self._spans.keep(trace_id)

    def load(self) -> pb.Load:
        load = self._worker.load
        return pb.Load(
            free_blocks=load.free_blocks,
            cached_blocks=load.cached_blocks,
            leaked_blocks=load.leaked_blocks,
            promised_blocks=load.promised_blocks,
            running=load.running,
            waiting=load.waiting,
            waiting_tokens=load.waiting_tokens,
            prefill_tokens_per_s=load.prefill_tokens_per_s,
            decode_step_s=load.step_s,
            slowdown=load.slowdown,
            preemptions=load.preemptions,
            fenced_writes=sum(receiver.fenced_writes for receiver in self._receivers),
            step_seconds=histogram_to(load.steps.seconds),
            step_sequences=histogram_to(load.steps.sequences),
            step_tokens=histogram_to(load.steps.tokens),
        )

    async def custody(self) -> pb.GetCustodyResponse:
        return self._who.sign(custody_to(await inspect(self._loop.submit)))

    def arrived(self, arrived: Arrived) -> None:
        """Hand a complete ticket to the step; called by receivers, on threads of their own."""
        self._loop.submit(arrived)

    # -- the step's events -------------------------------------------------------------------------------------------

    def deliver(self, events: Sequence[Event]) -> None:
        """Take in what one step reports; called on the event loop."""
        news = False
        for event in events:
            match event:
                case Stepped():
                    self._send_tokens(event)
                    news |= any(token.finish for token in event.tokens)
                case PromptDone():
                    self._send_prefill_done(event)
                    news = True
                case Granted(sequence_id):
                    self._send_granted(event)
                case Refused(sequence_id, too_large, message):
                    self.sessions.refuse(sequence_id, message, too_large=too_large)
                case Joined():
                    self._send_arrived(event)
                case Scored(sequence_id, scores):
                    if leg := self.sessions.leg(sequence_id):
                        self.sessions.send(sequence_id, prompt_scores=scores_to(leg.number, scores))
                case DeadEnd():
                    self._send_dead_end(event)
                case Freed(sequence_id):
                    self._spans.ended(sequence_id, time.monotonic_ns(), given_up=True)
                    self.sessions.released(sequence_id)
                    news = True
                case CacheChanges():
                    self.sessions.publish(event)
        if news:  # frontends may have requests waiting for room, or for a shorter wait
            self.sessions.report_load()

    def _send_tokens(self, step: Stepped) -> None:
        rows = (
            Row(
                token.id,
                token.index,
                token.token,
                finish_to(token.finish),
                token.finish is not None,
                logprobs_to(step.logprobs.get(token.id)),
                step.vectors.get(token.id, b""),
            )
            for token in step.tokens
        )
        self.sessions.send_steps(step.start_ns, step.end_ns, rows)
        for token in step.tokens:
            self._spans.token(token.id)
            if token.finish is not None:
                self._spans.ended(token.id, step.end_ns)

    def _send_prefill_done(self, event: PromptDone) -> None:
        if leg := self.sessions.leg(event.prefilled.id):
            done = pb.PrefillDone(
                leg=leg.number,
                cached_tokens=event.prefilled.num_cached,
                num_chunks=event.prefilled.num_chunks,
                queue_ns=event.start_ns - event.queued_ns,
                compute_ns=event.end_ns - event.start_ns,
            )
            self.sessions.send(leg.id, prefill_done=done)
            self._spans.note(leg.id, "prefilled", event.end_ns)

    def _send_granted(self, event: Granted) -> None:
        if leg := self.sessions.leg(event.id):
            ticket = ticket_to_proto(event.ticket) if event.ticket else None
            granted = pb.Granted(leg=leg.number, ticket=ticket, cached_tokens=event.cached_tokens)
            self.sessions.send(leg.id, granted=granted)
            self._spans.granted(leg, time.monotonic_ns())

    def _send_dead_end(self, event: DeadEnd) -> None:
        if leg := self.sessions.leg(event.id):
            reason = pb.FAILURE_REASON_DEAD_END
            self.sessions.send(leg.id, failed=pb.Failed(leg=leg.number, reason=reason, message=event.message))

    def _send_arrived(self, event: Joined) -> None:
        if leg := self.sessions.leg(event.id):
            arrived = pb.KvArrived(
                leg=leg.number,
                size_bytes=event.arrived.size_bytes,
                first_frame_ns=event.arrived.first_frame_ns,
                commit_ns=event.arrived.commit_ns,
            )
            self.sessions.send(leg.id, kv_arrived=arrived)
            commit = event.arrived.commit
            self._spans.note(leg.id, "kv_arrived", event.arrived.commit_ns, link=commit.traceparent)
