"""The processes: real services, workers, schedulers, senders and tickets, without threads, sockets or models."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from decode.scheduler import DecodeScheduler
from decode.service import DecodeService
from decode.spans import DecodeSpans
from decode.worker import DecodeWorker, TicketTemplate
from engine.audit import AuditedStepper, Auditor
from engine.errors import TandemError
from engine.hashes import block_hashes
from engine.identity import Identity
from engine.sequence import SamplingParams, SequenceId
from engine.telemetry import Telemetry
from frontend.admission import Admission
from frontend.attempt import Attempts, Interrupted
from frontend.callers import ANYBODY
from frontend.job import Job
from frontend.ledger import Ledger
from frontend.link import Link
from frontend.pulse import Pulse
from frontend.router import Policy
from kvtransfer.endpoints import SHM, Senders
from kvtransfer.open_tickets import Refused
from kvtransfer.pieces import Numbers
from kvtransfer.receiver import TicketReceiver
from kvtransfer.shm import ShmSender
from kvtransfer.transport import Commit, Deliver, Endpoint, Fence, KVSender, Ticket, TicketId
from kvtransfer.wire import fence_from_proto
from kvtransfer.zeromq import ZeroMQSender
from prefill.scheduler import PrefillScheduler
from prefill.service import PrefillService
from prefill.spans import PrefillSpans
from prefill.worker import PrefillWorker
from protos import kvtransfer_pb2 as kv
from protos import worker_pb2 as pb
from tests.custody.arithmetic import BLOCK_BYTES, STOP, VOCAB_SIZE, Arithmetic, Memory, P
from tests.custody.late import LateDevice
from tests.custody.network import Frame, GrpcChannel, KVChannel, Stream
from tests.custody.virtual import VirtualLoop

LEASE_S = 2.0
STALL_S = 1.5
QUEUE_TIMEOUT_S = 6.0
MAX_ATTEMPTS = 6
DECODE_BLOCKS, PREFILL_BLOCKS = 8, 10
MAX_CONTEXT = 24
PREFILLS = ("prefill", "other")
"""Prefill workers; where there is a choice the first one is taken."""

C = TypeVar("C")
E = TypeVar("E")


class Inbox(Generic[C]):
    """What a service knows of its step loop."""

    def __init__(self) -> None:
        self.commands: list[C] = []

    def submit(self, command: C) -> None:
        self.commands.append(command)

    def take(self) -> list[C]:
        taken, self.commands = self.commands, []
        return taken


class Process(Generic[C, E]):
    """A worker process: a step happens, and is heard of on its event loop, when the test says so."""

    def __init__(self, loop: VirtualLoop, who: Identity, num_blocks: int) -> None:
        self.loop = loop
        self.who = who
        self.memory = Memory(num_blocks)
        self.inbox: Inbox[C] = Inbox()
        self.during_step: Callable[[], None] = lambda: None
        self._model = Arithmetic(self.memory)
        self._unheard: list[list[E]] = []

    def run(self, batch: object) -> list[int]:
        self.during_step()
        return self._model.run(batch)  # type: ignore[arg-type]

    def start(self, worker: object, service: object) -> None:
        self.worker, self.service = worker, service
        self._stepper = AuditedStepper(worker, Auditor(worker))  # type: ignore[arg-type,var-annotated]
        self.timers = self.loop.watch(self.loop.create_task(service.sessions.run_timers()))  # type: ignore[attr-defined]

    def turn(self) -> None:
        """As `StepLoop.run` does: take in what waits, and step."""
        if commands := self.inbox.take():
            self._note(self._stepper.apply(commands))
        self._note(self._stepper.step())

    def hear(self) -> None:
        """The event loop takes in what the steps reported."""
        unheard, self._unheard = self._unheard, []
        for events in unheard:
            self.loop.run(partial(self.service.deliver, events))  # type: ignore[attr-defined]

    def _note(self, events: list[E]) -> None:
        if events:
            self._unheard.append(events)


def identity(role: "pb.Role", name: str, incarnation: str) -> Identity:
    is_decode = role == pb.ROLE_DECODE
    return Identity(
        worker_id=name,
        role=role,
        model="m",
        layout="l",
        num_blocks=DECODE_BLOCKS if is_decode else PREFILL_BLOCKS,
        block_tokens=P,
        block_bytes=BLOCK_BYTES,
        vocab_size=VOCAB_SIZE,
        max_context=MAX_CONTEXT,
        max_sequences=4,
        lease_s=LEASE_S,
        incarnation=incarnation,
        max_step_tokens=8,
    )


class Decode(Process):  # type: ignore[type-arg]
    """A decode worker process."""

    worker: DecodeWorker
    service: DecodeService

    def __init__(self, loop: VirtualLoop, endpoint: Endpoint, incarnation: str, *, overlaps: bool) -> None:
        """`overlaps`: on a device that computes late, each step is launched before the one before it is over."""
        who = identity(pb.ROLE_DECODE, "decode", incarnation)
        super().__init__(loop, who, DECODE_BLOCKS)
        self.receiver = Receiver(self, endpoint, lambda arrived: self.service.arrived(arrived))
        template = TicketTemplate(who.worker_id, incarnation, BLOCK_BYTES, who.layout, (self.receiver,))
        scheduler = DecodeScheduler(DECODE_BLOCKS, P, max_step_tokens=8, max_sequences=4)
        self.device: LateDevice | None = None
        if overlaps:
            self.device = LateDevice(self.memory, lambda: scheduler.pool, before_step=lambda: self.during_step())
        worker = DecodeWorker(scheduler, self.run, self._model.sample, template, launch=self.device)  # type: ignore[arg-type]
        spans = DecodeSpans(Telemetry(), who.worker_id)
        self.start(worker, DecodeService(worker, self.inbox, [self.receiver], who, spans))  # type: ignore[arg-type]

    def end(self) -> None:
        """As kill -9 does."""
        self.timers.cancel()

    def reserved(self, ticket_id: TicketId) -> SequenceId | None:
        return self.worker._reserved.get(ticket_id)


class Receiver(TicketReceiver):
    """Takes frames as `ZeroMQReceiver` and `ShmReceiver` do, without their threads and sockets."""

    def __init__(self, process: Decode, endpoint: Endpoint, deliver: Deliver) -> None:
        super().__init__(process.memory, deliver, VOCAB_SIZE)
        self._endpoint = endpoint
        self._process = process
        self.promised: dict[Fence, tuple[SequenceId, tuple[int, ...]]] = {}
        """Whose blocks each ticket was ever opened for."""
        self.granted: dict[SequenceId, Fence] = {}
        """Under which each owner's blocks were opened last."""
        self.before_revoke: Callable[[], None] = lambda: None

    def open(self, ticket: Ticket, slots: Sequence[int]) -> None:
        owner = self._process.reserved(ticket.fence.ticket_id)
        assert owner is not None, "a ticket is opened for nobody"
        self.promised[ticket.fence] = owner, tuple(slots)
        self.granted[owner] = ticket.fence
        super().open(ticket, slots)

    def revoke(self, ticket_id: TicketId) -> None:
        self.before_revoke()  # its thread is still writing
        for fence, (owner, slots) in self.promised.items():
            if fence.ticket_id == ticket_id and ticket_id in self.open_tickets:
                held = self._process.worker.scheduler.pool.blocks_of(owner)
                assert set(slots) <= set(held), f"the blocks of {owner} were freed before its ticket was revoked"
        super().revoke(ticket_id)

    def close(self) -> None: ...

    def serve(self, frame: Frame) -> bytes:
        return self._answer(frame.header, partial(self._take, frame))

    def _take(self, frame: Frame) -> None:
        fence = fence_from_proto(frame.header.fence)
        match frame.header.WhichOneof("frame"):
            case "blocks":
                blocks, data = frame.header.blocks, np.frombuffer(frame.data(), np.uint8)
                checksums = np.array(blocks.checksums, np.uint64)
                scatter = partial(self._process.memory.scatter, frame=data)
                self.tickets.fill_pieces(fence, blocks.block, blocks.offset, checksums, len(data), scatter)
            case "copy":
                self._copy(frame.channel, fence, frame.header.copy)
            case "commit":
                commit = frame.header.commit
                digest = None if frame.channel.reads_blocks else commit.digest
                self.complete(fence, Commit(commit.first_token, commit.traceparent), commit.num_blocks, digest)

    def _copy(self, channel: KVChannel, fence: Fence, copy: kv.Copy) -> None:
        self.tickets.check_blocks(fence, range(copy.first, copy.first + len(copy.source_blocks)))
        for block, source in enumerate(copy.source_blocks, copy.first):
            self.tickets.fill_blocks(fence, range(block, block + 1), partial(self._copy_block, channel, source))

    def _copy_block(self, channel: KVChannel, source: int, slots: Numbers) -> None:
        assert channel.memory is not None
        self._process.memory.block_view(int(slots[0]))[:] = channel.memory.block_view(source)
        if channel.closed or channel.broken:
            raise Refused(kv.NACK_REASON_STALE, "the sender left while its blocks were read")


class CopiedOutOf(ShmSender):
    """Without a socket; `connect` makes the channel."""

    def __init__(self, memory: Memory, connect: Callable[[str], KVChannel]) -> None:
        self._to = connect
        super().__init__(memory, None, stall_limit_s=STALL_S)  # type: ignore[arg-type]

    def _connect(self, address: str) -> KVChannel:  # type: ignore[override]
        return self._to(address)


class Prefill(Process):  # type: ignore[type-arg]
    """A prefill worker process."""

    worker: PrefillWorker
    service: PrefillService

    def __init__(
        self,
        loop: VirtualLoop,
        name: str,
        transport: str,
        connect: Callable[[str, Memory | None], KVChannel],
        incarnation: str,
    ) -> None:
        who = identity(pb.ROLE_PREFILL, name, incarnation)
        super().__init__(loop, who, PREFILL_BLOCKS)
        self.sender: KVSender
        if transport == SHM:
            self.sender = CopiedOutOf(self.memory, lambda address: connect(address, self.memory))
        else:
            self.sender = ZeroMQSender(self.memory, stall_limit_s=STALL_S)
        senders = Senders({transport: self.sender})
        scheduler = PrefillScheduler(
            PREFILL_BLOCKS, P, max_step_tokens=8, max_sequences=3, max_queued_tokens=2 * MAX_CONTEXT
        )
        worker = PrefillWorker(scheduler, self.run, self._model.sample)  # type: ignore[arg-type]
        spans = PrefillSpans(Telemetry(), who.worker_id)
        self.start(worker, PrefillService(worker, self.inbox, senders, who, spans))  # type: ignore[arg-type]

    def end(self) -> None:
        """As kill -9 does; what is under way stays so."""
        self.timers.cancel()
        self.sender._links.close()  # type: ignore[attr-defined]
        if isinstance(self.sender, ZeroMQSender):
            self.sender._context.term()
        for outgoing in self.service._outgoing.values():
            outgoing.task.cancel()


class WorkerLink(Link):
    """Over a simulated channel."""

    connect: Callable[[], Stream | None]

    def _channel(self) -> GrpcChannel:  # type: ignore[override]
        return GrpcChannel(self.connect)


@dataclass(eq=False)
class Request:
    """What a client asked, what he must hear, and what he heard."""

    name: str
    prompt: list[int]
    max_tokens: int
    expected: list[int]
    heard: list[int] = field(default_factory=list)
    outcome: str = ""
    """How it ended, once it has."""
    task: "asyncio.Task[None] | None" = None


class Frontend:
    """A frontend process: links, router and attempts; `Fleet` to the latter."""

    def __init__(self, loop: VirtualLoop, name: str, connect: Callable[[str, str], Stream | None]) -> None:
        self.pulse = Pulse()
        self.requests: list[Request] = []
        self._loop = loop
        self._links: dict[str, WorkerLink] = {}
        for worker in (*PREFILLS, "decode"):
            self._links[worker] = link = WorkerLink(worker, self.pulse)
            link.connect = partial(connect, worker, name)
        self._streams = [loop.watch(loop.create_task(link.run())) for link in self._links.values()]
        policy = Policy(always_remote=True)
        self._attempts = Attempts(self, Admission(100, 10_000), policy, QUEUE_TIMEOUT_S)  # type: ignore[arg-type]

    @property
    def links_up(self) -> list[Link]:
        return [link for link in self._links.values() if link.view is not None]

    def links(self, role: "pb.Role") -> list[Link]:
        names = ("decode",) if role == pb.ROLE_DECODE else PREFILLS
        return [link for link in self.links_up if link.address in names]

    @property
    def num_held(self) -> int:
        """Legs that a worker may hold something for, and requests that wait."""
        return self.num_legs + self._attempts.admission.queued_requests

    @property
    def num_legs(self) -> int:
        return sum(link.num_legs for link in self._links.values())

    def ask(self, request: Request) -> None:
        self.requests.append(request)
        request.task = self._loop.watch(self._loop.create_task(self._answer(request)))

    def end(self) -> None:
        """As kill -9 does: nobody is told anything."""
        for request in self.requests:
            request.outcome = request.outcome or "the frontend died"
        for task in self._streams:
            task.cancel()
        self._loop.settle()
        for request in self.requests:
            if request.task is not None:
                request.task.cancel()

    async def _answer(self, request: Request) -> None:
        """As `FleetInference.generate` does."""
        params = SamplingParams(max_tokens=request.max_tokens, seed=1, stop_token_ids=frozenset({STOP}))
        job = Job(
            request_id=request.name,
            model="m",
            tokens=list(request.prompt),
            num_prompt=len(request.prompt),
            params=params,
            caller=ANYBODY,
            hashes=block_hashes(request.prompt, P, ANYBODY.hash_root),
            traceparent="",
            ledger=Ledger(),
        )
        try:
            while not await self._attempt(request, job):
                if job.attempt >= MAX_ATTEMPTS:
                    request.outcome = "too many attempts"
                    return
        except TandemError as error:
            request.outcome = error.reason
        else:
            request.outcome = "answered"
            assert request.heard == request.expected, f"{request.name} ended early"
        finally:
            self._attempts.let_go(job)
            request.outcome = request.outcome or "cancelled"

    async def _attempt(self, request: Request, job: Job) -> bool:
        try:
            async with aclosing(self._attempts.run(job)) as batches:
                async for rows in batches:
                    for row in rows:
                        assert row.index == len(request.heard), f"{request.name}: a gap or a repeat"
                        request.heard.append(row.token)
                        assert request.heard == request.expected[: row.index + 1], f"{request.name}: a wrong token"
        except Interrupted:
            return False
        return True
