"""The worker's end of the stream to each frontend: who owns which leg, leases, drain, and which event goes where.

A leg's life here:
 1. `Admit` arrives; the leg is entered under its session and handed to the role (prefill or decode).
 2. Events of the role are sent to the leg's session; the last one (refused, finished, failed, released) strikes it off.
 3. `RenewLease` names the legs a frontend still wants. One not named for `lease_s` is given up, and so is every
    leg of a session whose stream broke. A timer of its own sees to it, not the step.

Knows sessions, legs and protobuf events. Does not know what prefill or decode do with a leg.
"""

import asyncio
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

import grpc.aio
from google.protobuf.message import DecodeError

from engine.blocks import CacheChanges
from engine.clock import Axis, own_axis
from engine.errors import InvalidRequest
from engine.leg import FrontendSession, Leg, Row
from engine.sequence import BlockHash, SequenceId
from engine.telemetry import about
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc

log = logging.getLogger(__name__)

LOAD_INTERVAL_S = 0.25
HEARTBEAT_S = 1.0
"""A frontend hears from a worker at least that often; see `frontend.link`."""


class Role(Protocol):
    """What prefill and decode each do behind the stream. Called on the event loop; must not block it."""

    def hello(self) -> pb.Hello: ...

    def admit(self, leg: Leg, admit: pb.Admit) -> None:
        """Start work on a leg. Raises InvalidRequest if the command cannot be meant for this worker."""

    def regrant(self, leg: Leg, regrant: pb.Regrant) -> None:
        """Have a leg's room filled another way, if it still waits for its KV. Raises InvalidRequest like `admit`."""

    def abort(self, leg: Leg) -> None:
        """Give the leg up; `released` is sent when nothing is held for it any more."""

    def load(self) -> pb.Load: ...

    def keep_trace(self, trace_id: bytes) -> None:
        """Export what is known of a trace, which was not sampled."""

    async def custody(self) -> pb.GetCustodyResponse:
        """Blocks and their holders, by sequence id in `request_id`; sessions complete the holders."""


class Sessions(worker_pb2_grpc.WorkerServicer):
    """The Worker service, over a role."""

    def __init__(self, role: Role, lease_s: float) -> None:
        self._role = role
        self._lease_s = lease_s
        self._sessions: dict[str, FrontendSession] = {}
        self._legs: dict[SequenceId, Leg] = {}
        self._numbers = itertools.count(1)
        self._stored: set[BlockHash] = set()
        self._last_load: bytes | None = None
        self._load_due_s = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        self.stalled = ""
        """Why this worker gets nowhere; told to every frontend, as the next."""
        self.unready = ""
        """Why it should get nothing new, although it gets on."""

    # -- what the role says ------------------------------------------------------------------------------------------

    def leg(self, sequence_id: SequenceId) -> Leg | None:
        return self._legs.get(sequence_id)

    def send(self, sequence_id: SequenceId, *, last: bool = False, **event: object) -> None:
        """Send one event (`granted=...`, ...) to the leg's frontend; after the `last` nothing is held for the leg."""
        leg = self._legs.get(sequence_id)
        if leg is None:
            return
        leg.session.send(pb.WorkerEvent(**event))  # type: ignore[arg-type]
        if last:
            self.strike(sequence_id)

    def strike(self, sequence_id: SequenceId) -> None:
        """Forget a leg: its last event was sent."""
        leg = self._legs.pop(sequence_id, None)
        if leg is not None:
            leg.session.legs.pop(leg.number, None)
        if not self._legs:
            self._idle.set()

    def send_steps(self, start_ns: int, end_ns: int, rows: Iterable[Row]) -> None:
        """Send the tokens of one step: one columnar message per session."""
        outputs: dict[FrontendSession, pb.StepOutput] = defaultdict(
            lambda: pb.StepOutput(start_ns=start_ns, end_ns=end_ns)
        )
        for row in rows:
            leg = self._legs.get(row.id)
            if leg is None:
                continue
            output = outputs[leg.session]
            if row.logprobs is not None:
                row.logprobs.row = len(output.legs)
                output.logprobs.append(row.logprobs)
            if row.vector:
                output.embeddings.append(pb.Embedding(row=len(output.legs), values=row.vector))
            output.legs.append(leg.number)
            output.indices.append(row.index)
            output.token_ids.append(row.token)
            output.finish_reasons.append(row.finish)
            if row.last:
                self.strike(row.id)
        for session, output in outputs.items():
            session.send(pb.WorkerEvent(step_output=output))

    def released(self, sequence_id: SequenceId) -> None:
        """Say that nothing is held for this leg any more."""
        if leg := self._legs.get(sequence_id):
            self.send(sequence_id, last=True, released=pb.Released(leg=leg.number))

    def refuse(self, sequence_id: SequenceId, message: str, *, too_large: bool) -> None:
        """Say that there is no room for this leg: now, or ever."""
        if leg := self._legs.get(sequence_id):
            self._last_load = None  # the frontend asks again at the next report: there must be one
            reason = pb.REFUSAL_REASON_TOO_LARGE if too_large else pb.REFUSAL_REASON_FULL
            self.send(sequence_id, last=True, refused=pb.Refused(leg=leg.number, reason=reason, message=message))

    def reject(self, leg: Leg, message: str) -> None:
        """Say that this leg cannot be meant for this worker."""
        self._refuse(leg.session, leg.number, pb.REFUSAL_REASON_INVALID, message)
        self.strike(leg.id)

    def publish(self, changes: CacheChanges) -> None:
        """Tell every frontend which blocks the prefix cache gained and lost; new ones are told of all there are."""
        self._stored.update(changes.stored)
        self._stored.difference_update(changes.evicted)
        if changes.stored:
            self.broadcast(blocks_stored=pb.BlocksStored(hashes=b"".join(changes.stored)))
        if changes.evicted:
            self.broadcast(blocks_evicted=pb.BlocksEvicted(hashes=b"".join(changes.evicted)))

    def report_load(self) -> None:
        """Tell every frontend how busy this worker is, if that has changed or nothing was told for a while."""
        load, now = self._load(), time.monotonic()
        if (encoded := _news(load)) != self._last_load or now >= self._load_due_s:
            self._last_load, self._load_due_s = encoded, now + HEARTBEAT_S
            self.broadcast(load=load)

    def broadcast(self, **event: object) -> None:
        for session in self._sessions.values():
            session.send(pb.WorkerEvent(**event))  # type: ignore[arg-type]

    # -- the stream --------------------------------------------------------------------------------------------------

    async def Session(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[pb.WorkerCommand], context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.WorkerEvent]:
        session = FrontendSession(f"{context.peer()}#{next(self._numbers)}")
        self._sessions[session.name] = session
        log.info("frontend %s connected", session.name)
        reader = asyncio.create_task(self._read(session, request_iterator))
        try:
            hello = self._role.hello()
            hello.draining = self.draining
            yield pb.WorkerEvent(hello=hello)
            if self._stored:
                yield pb.WorkerEvent(blocks_stored=pb.BlocksStored(hashes=b"".join(self._stored)))
            self._last_load = None  # this one hears what nobody was told yet: that it is over must be news to him, too
            yield pb.WorkerEvent(load=self._load())
            while (event := await session.outbox.get()) is not None:
                if event.HasField("clock_reply"):
                    event.clock_reply.answered_ns = time.monotonic_ns()  # as late as can be
                yield event
            if reader.done():
                try:
                    reader.result()  # raises what ended it
                except DecodeError:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a command cannot be parsed")
        finally:
            reader.cancel()
            del self._sessions[session.name]
            log.info("frontend %s gone, %d legs given up", session.name, len(session.legs))
            for leg in list(session.legs.values()):
                self._give_up(leg, "its frontend's stream broke")

    async def GetCustody(  # noqa: N802 - gRPC's name
        self, request: pb.GetCustodyRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.GetCustodyResponse:
        return await self.custody()

    async def custody(self) -> pb.GetCustodyResponse:
        """Who holds which blocks, since when and why."""
        report = await self._role.custody()
        now = time.monotonic()
        for holder in report.holders:
            leg = self._legs.get(SequenceId(holder.request_id))
            if leg is None:  # the step has ended it since, or it will never end
                holder.reason += "; its frontend was told that it is over"
                continue
            holder.request_id, holder.leg, holder.session = leg.request_id, leg.number, leg.session.name
            holder.attempt = leg.attempt
            holder.age_s, holder.lease_s = now - leg.admitted_at, leg.lease_ends_at - now
            if leg.given_up:
                holder.reason += f"; given up: {leg.given_up}"
        return report

    # -- timers ------------------------------------------------------------------------------------------------------

    async def run_timers(self) -> None:
        """Give up legs whose lease has ended; report load when it changed."""
        while True:
            await asyncio.sleep(LOAD_INTERVAL_S)
            now = time.monotonic()
            for leg in [leg for leg in self._legs.values() if leg.lease_ends_at < now and not leg.given_up]:
                log.warning(
                    "the lease of leg %d of %s has ended",
                    leg.number,
                    leg.session.name,
                    extra=about(leg.request_id, leg.traceparent),
                )
                leg.session.send(
                    pb.WorkerEvent(failed=pb.Failed(leg=leg.number, reason=pb.FAILURE_REASON_EXPIRED, message="lease"))
                )
                self._give_up(leg, "its lease ended")
            self.report_load()

    async def drain(self) -> None:
        """Take no new legs; return once there are none left."""
        self.draining = True
        self.report_load()
        await self._idle.wait()

    def load(self) -> pb.Load:
        """What the role says of itself."""
        return self._role.load()

    def close(self) -> None:
        """End every stream."""
        for session in self._sessions.values():
            session.outbox.put_nowait(None)

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _read(self, session: FrontendSession, commands: AsyncIterator[pb.WorkerCommand]) -> None:
        try:
            async for command in commands:
                self._handle(session, command)
        finally:
            session.outbox.put_nowait(None)

    def _handle(self, session: FrontendSession, command: pb.WorkerCommand) -> None:
        match command.WhichOneof("command"):
            case "admit":
                self._admit(session, command.admit)
            case "abort":
                leg = session.legs.get(command.abort.leg)
                if leg is None:
                    session.send(pb.WorkerEvent(released=pb.Released(leg=command.abort.leg)))
                else:
                    self._give_up(leg, "its frontend aborted it")
            case "regrant":
                self._regrant(session, command.regrant)
            case "renew_lease":
                ends_at = time.monotonic() + self._lease_s
                for number in command.renew_lease.legs:
                    if number in session.legs:
                        session.legs[number].lease_ends_at = ends_at
            case "drain":
                self.draining = True
            case "keep_trace":
                self._role.keep_trace(command.keep_trace.trace_id)
            case "clock_probe":
                self._tell_clock(session, command.clock_probe)
            case None:
                log.warning("command of a kind this worker does not know from %s", session.name)

    def _admit(self, session: FrontendSession, admit: pb.Admit) -> None:
        if self.draining:
            self._refuse(session, admit.leg, pb.REFUSAL_REASON_DRAINING, "the worker is draining")
            return
        if admit.leg in session.legs:
            self._refuse(session, admit.leg, pb.REFUSAL_REASON_INVALID, f"leg {admit.leg} exists already")
            return
        now = time.monotonic()
        leg = Leg(
            SequenceId(f"{session.name}/{admit.leg}"),
            session,
            admit.leg,
            admit.request_id,
            admit.attempt,
            admit.traceparent,
            admitted_at=now,
            lease_ends_at=now + self._lease_s,
        )
        self._legs[leg.id] = session.legs[leg.number] = leg
        self._idle.clear()
        try:
            self._role.admit(leg, admit)
        except InvalidRequest as error:
            self.reject(leg, error.message)

    def _regrant(self, session: FrontendSession, regrant: pb.Regrant) -> None:
        leg = session.legs.get(regrant.leg)
        if leg is None:
            session.send(pb.WorkerEvent(released=pb.Released(leg=regrant.leg)))
        elif not leg.given_up:
            try:
                self._role.regrant(leg, regrant)
                leg.attempt = max(leg.attempt, regrant.attempt)
            except InvalidRequest as error:
                failed = pb.Failed(leg=leg.number, reason=pb.FAILURE_REASON_INVALID, message=error.message)
                session.send(pb.WorkerEvent(failed=failed))
                self._give_up(leg, "its frontend said what makes no sense")

    def _tell_clock(self, session: FrontendSession, probe: pb.ClockProbe) -> None:
        received_ns = time.monotonic_ns()
        if probe.HasField("axis"):
            session.axis = Axis(probe.axis.unix_at_zero_ns, probe.axis.within_ns)
        reply = pb.ClockReply(
            sent_ns=probe.sent_ns, received_ns=received_ns, unix_at_zero_ns=own_axis().unix_at_zero_ns
        )
        session.send(pb.WorkerEvent(clock_reply=reply))

    def _refuse(self, session: FrontendSession, number: int, reason: pb.RefusalReason, message: str) -> None:
        session.send(pb.WorkerEvent(refused=pb.Refused(leg=number, reason=reason, message=message)))

    def _give_up(self, leg: Leg, why: str) -> None:
        if not leg.given_up:
            leg.given_up = why
            self._role.abort(leg)

    def _load(self) -> pb.Load:
        load = self._role.load()
        load.draining, load.stalled, load.unready = self.draining, self.stalled, self.unready
        return load


def _news(load: pb.Load) -> bytes:
    """What of it frontends should hear of at once: statistics, by which nobody decides, come with the rest."""
    news = pb.Load()
    news.CopyFrom(load)
    news.ClearField("step_seconds")
    news.ClearField("step_sequences")
    news.ClearField("step_tokens")
    news.ClearField("links")
    return news.SerializeToString(deterministic=True)
