"""The stream to one worker: what the worker holds, and each leg's events to whoever waits for them.

A `Link` keeps one stream open for as long as the frontend lives, and comes back when it breaks. The stream is the truth
about the worker: while it is open the worker is there; when it breaks, everything the worker held for this frontend is
gone, and every open leg hears `Lost`.
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import grpc.aio

from engine.errors import ProtocolError
from engine.hashes import split_hashes
from engine.sequence import BlockHash
from engine.tls import Tls
from engine.wire import MAX_MESSAGE_BYTES
from frontend.clock import Clock, pauses_s
from frontend.leg_events import LegEvent, Lost, Row, Start
from frontend.pulse import Pulse
from frontend.tally import Tally
from frontend.worker_view import WorkerView
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 2.0
LOOK_S = 0.5
UNKNOWN_LEASE_S = 3.0
"""Until the worker's hello."""
SHORTEST_SILENCE_S = 3.0
"""Three of `engine.session.HEARTBEAT_S`."""
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it, a worker that is stopped is not given up for over a minute
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class Inbox(Protocol):
    """Where the events of all legs of one request go."""

    def put_nowait(self, item: "tuple[Leg, LegEvent]", /) -> None: ...


@dataclass(slots=True, eq=False)
class Leg:
    """One request's work on one worker, as the frontend sees it."""

    number: int
    link: "Link"
    inbox: Inbox
    """Shared by all legs of a request."""
    num_blocks: int
    num_tokens: int
    """To be computed by this worker."""
    answered: bool = False
    """Whether the worker has taken it in, so that its next report of load counts it."""
    counted: bool = False
    """Whether a report of load has."""
    wanted: bool = True

    @property
    def over(self) -> bool:
        """Whether the worker holds nothing for it any more, by all that it said."""
        return not self.link.holds(self)

    def abort(self) -> None:
        """Tell the worker that nobody wants this leg any more; harmless when it is over."""
        if self.wanted:
            self.wanted = False
            self.link.abort(self)


@dataclass(slots=True, eq=False)
class Link:
    """One worker. `view` is None while its stream is down."""

    address: str
    pulse: Pulse
    tls: Tls | None = None
    """None: the worker is reached without TLS."""
    host: str = ""
    """Whose certificate the worker must show; empty: that of the address."""
    view: WorkerView | None = None
    hello: pb.Hello | None = None
    incarnation: str = ""
    """The worker's latest."""
    model: str = ""
    """That the worker serves, by what it said last; empty until it has."""
    load: pb.Load = field(default_factory=pb.Load)
    tally: Tally = field(default_factory=Tally)
    """Goes on over the worker's starts, and over links to it."""
    clock: Clock = field(default_factory=Clock)
    """Where the worker's stands against this one's."""
    hashes: set[BlockHash] = field(default_factory=set)
    _legs: dict[int, Leg] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _outbox: "asyncio.Queue[pb.WorkerCommand]" = field(default_factory=asyncio.Queue)
    _stub: worker_pb2_grpc.WorkerStub | None = None

    # -- legs --------------------------------------------------------------------------------------------------------

    def admit(self, admit: pb.Admit, inbox: Inbox) -> Leg:
        """Start a leg; its events, numbered by the worker, go to `inbox`."""
        assert self.view is not None, f"{self.address} is not connected"
        num_tokens = len(admit.token_ids)
        num_blocks = -(-num_tokens // self.view.block_tokens)
        leg = Leg(next(self._numbers), self, inbox, num_blocks, 0 if admit.HasField("reserve") else num_tokens)
        admit.leg = leg.number
        self._legs[leg.number] = leg
        self._count_sent(self.view, leg)
        self._outbox.put_nowait(pb.WorkerCommand(admit=admit))
        return leg

    def abort(self, leg: Leg) -> None:
        if leg.number in self._legs:
            self._outbox.put_nowait(pb.WorkerCommand(abort=pb.Abort(leg=leg.number)))

    def holds(self, leg: Leg) -> bool:
        return leg.number in self._legs

    def regrant(self, regrant: pb.Regrant) -> None:
        """Have the room of a leg filled another way; of one that is over, its inbox was told."""
        if regrant.leg in self._legs:
            self._outbox.put_nowait(pb.WorkerCommand(regrant=regrant))

    def keep_trace(self, trace_id: bytes) -> None:
        """Have the worker export what it holds of a trace that was not sampled."""
        if self.view is not None:
            self._outbox.put_nowait(pb.WorkerCommand(keep_trace=pb.KeepTrace(trace_id=trace_id)))

    @property
    def num_legs(self) -> int:
        return len(self._legs)

    async def custody(self) -> pb.GetCustodyResponse:
        """Raises grpc.aio.AioRpcError when the worker does not answer."""
        assert self._stub is not None
        report: pb.GetCustodyResponse = await self._stub.GetCustody(pb.GetCustodyRequest(), timeout=5)
        return report

    # -- the stream --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the stream open; returns only when cancelled."""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                async with self._channel() as channel:
                    self._stub = worker_pb2_grpc.WorkerStub(channel)
                    await self._session(self._stub)
                reason = "the worker ended the stream"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except ProtocolError as error:
                reason = error.message
            except TimeoutError:
                reason = f"it said nothing for {self._silence_s():g} s"
            finally:
                was_up = self.view is not None
                self._down()
            if was_up:
                log.warning("lost worker %s: %s", self.address, reason)
                retry_s = FIRST_RETRY_S
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))
            retry_s = min(retry_s * 2, LAST_RETRY_S)

    def _channel(self) -> grpc.aio.Channel:
        if self.tls is None or self.address.startswith("unix:"):
            return grpc.aio.insecure_channel(self.address, OPTIONS)
        named = (("grpc.ssl_target_name_override", self.host),) if self.host else ()
        return grpc.aio.secure_channel(self.address, self.tls.connects(), (*OPTIONS, *named))

    async def _session(self, stub: worker_pb2_grpc.WorkerStub) -> None:
        """Returns when the worker ends the stream. Raises TimeoutError when it is silent for `_silence_s`.

        A process that is stopped, or a network that swallows everything, breaks no connection.
        """
        self._outbox = asyncio.Queue()
        now = asyncio.get_running_loop().time
        heard_at = now()
        async with asyncio.timeout_at(heard_at + self._silence_s()) as silence:
            async for event in stub.Session(self._commands(self._outbox)):
                if event is None:
                    raise ProtocolError("it says what cannot be parsed")
                if now() > heard_at + LOOK_S:  # moving the limit costs more than the look
                    heard_at = now()
                    silence.reschedule(heard_at + self._silence_s())
                self._take(event)

    def _silence_s(self) -> float:
        """How long a worker may say nothing: its leases would have ended, and it has missed several heartbeats."""
        return max(self._lease_s(), SHORTEST_SILENCE_S)

    def _lease_s(self) -> float:
        return self.hello.lease_ms / 1000 if self.hello else UNKNOWN_LEASE_S

    async def _commands(self, outbox: "asyncio.Queue[pb.WorkerCommand]") -> AsyncIterator[pb.WorkerCommand]:
        """Commands as they come, renewals three times per lease, and now and then a question to the worker's clock."""
        renewed_at, pauses = time.monotonic(), pauses_s()
        probe_at = renewed_at + next(pauses)
        while True:
            renew_at = renewed_at + self._lease_s() / 3
            wait_s = min(renew_at, probe_at) - time.monotonic()
            try:
                if wait_s <= 0:  # however many commands wait
                    raise TimeoutError
                command = await asyncio.wait_for(outbox.get(), wait_s)
            except TimeoutError:
                if probe_at < renew_at:
                    probe_at = time.monotonic() + next(pauses)
                    command = pb.WorkerCommand(clock_probe=self.clock.probe(time.monotonic_ns()))
                else:
                    renewed_at = time.monotonic()
                    command = self._renewal()
            yield command

    def _renewal(self) -> pb.WorkerCommand:
        """Of all leases; what was not answered yet is said again."""
        for leg in self._legs.values():
            if not leg.wanted:
                self.abort(leg)
        wanted = [leg.number for leg in self._legs.values() if leg.wanted]
        return pb.WorkerCommand(renew_lease=pb.RenewLease(legs=wanted))

    def _down(self) -> None:
        legs, self._legs = self._legs, {}
        died = Start(self.address, self.incarnation) if self.view is not None and not self.view.draining else None
        self.view = self.hello = None
        self.clock = Clock()
        self.load = pb.Load()  # what it said when it was there is true no more, and would be added up
        self.hashes = set()
        for leg in legs.values():
            leg.inbox.put_nowait((leg, Lost(f"worker {self.address} is gone", died)))
        self.pulse.beat()

    # -- events ------------------------------------------------------------------------------------------------------

    def _take(self, event: pb.WorkerEvent) -> None:
        match kind := event.WhichOneof("event"):
            case "step_output":
                self._take_rows(event.step_output)
            case "load":
                self._take_load(event.load)
            case "clock_reply":
                self.clock.take(event.clock_reply, time.monotonic_ns())
            case "hello":
                self._take_hello(event.hello)
            case "blocks_stored":
                self.hashes.update(split_hashes(event.blocks_stored.hashes))
            case "blocks_evicted":
                self.hashes.difference_update(split_hashes(event.blocks_evicted.hashes))
            case "granted" | "prefill_done" | "prompt_scores" | "kv_arrived" | "refused" | "failed" | "released":
                self._take_leg_event(kind, getattr(event, kind))
            case None:
                log.warning("event of a kind this frontend does not know from %s", self.address)

    def _take_rows(self, output: pb.StepOutput) -> None:
        if not len(output.legs) == len(output.indices) == len(output.token_ids) == len(output.finish_reasons):
            raise ProtocolError("the columns of a step differ in length")
        logprobs = {row.row: row for row in output.logprobs}
        vectors = {row.row: row.values for row in output.embeddings}
        start_ns, end_ns, legs, heard_ns = output.start_ns, output.end_ns, self._legs, time.monotonic_ns()
        ends_leg = self.hello is not None and self.hello.role == pb.ROLE_DECODE  # prefill says so by `released`
        columns = zip(output.legs, output.indices, output.token_ids, output.finish_reasons, strict=True)
        for position, (number, index, token, finish) in enumerate(columns):
            leg = legs.get(number)
            if leg is None:
                continue
            said = logprobs.get(position), start_ns, end_ns, vectors.get(position, b""), heard_ns
            leg.inbox.put_nowait((leg, Row(index, token, finish, *said)))
            if finish and ends_leg:
                self._strike(leg)  # nothing is held any more

    def _take_leg_event(self, kind: str, event: LegEvent) -> None:
        number: int = event.leg  # type: ignore[union-attr]
        leg = self._legs.get(number)
        if leg is None:
            return
        leg.answered = True
        if isinstance(event, pb.Refused) and self.view is not None:
            self.view.full |= event.reason == pb.REFUSAL_REASON_FULL  # until it reports its load, which it will
            self.view.draining |= event.reason == pb.REFUSAL_REASON_DRAINING
        if kind in ("refused", "released"):
            self._strike(leg)
        leg.inbox.put_nowait((leg, event))

    def _strike(self, leg: Leg) -> None:
        """Forget a leg: the worker holds nothing for it any more."""
        del self._legs[leg.number]
        if self.view is not None and not leg.counted:
            self._count_sent(self.view, leg, -1)
        self.pulse.beat()

    def _count_sent(self, view: WorkerView, leg: Leg, times: int = 1) -> None:
        view.sent_legs += times
        view.sent_blocks += times * leg.num_blocks
        view.sent_tokens += times * leg.num_tokens

    def _take_hello(self, hello: pb.Hello) -> None:
        if not (hello.num_blocks and hello.block_tokens and hello.max_context and hello.max_sequences):
            raise ProtocolError("its hello says nothing of what it holds")
        self.hello = hello
        self.incarnation, self.model = hello.incarnation, hello.model
        self.hashes = set()
        self.view = WorkerView.of(hello, self.hashes)
        log.info("worker %s (%s) is there", hello.worker_id, self.address)
        self.pulse.beat()

    def _take_load(self, load: pb.Load) -> None:
        self.load = load
        self.tally.take(self.incarnation, load)
        view = self.view
        if view is None:
            return
        if load.stalled and not view.stalled:
            log.warning("worker %s is stalled: %s", view.worker_id, load.stalled)
            for leg in self._legs.values():
                leg.inbox.put_nowait((leg, Lost(f"worker {view.worker_id} is stalled: {load.stalled}")))
        view.take(load)
        for leg in self._legs.values():
            leg.counted = leg.answered
            if not leg.counted:
                self._count_sent(view, leg)
        self.pulse.beat()
