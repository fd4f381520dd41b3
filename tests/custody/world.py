"""A frontend, its workers, the network between them and time; and what must hold at every moment."""

import asyncio
import json
from collections import Counter
from functools import partial
from itertools import count

import pytest

import decode.service
import decode.worker
import engine.clock
import engine.session
import frontend.attempt
import frontend.job
import frontend.ledger
import frontend.link
import frontend.places
import kvtransfer.open_tickets
import kvtransfer.pieces
import kvtransfer.shm
import kvtransfer.zeromq
import prefill.worker
from engine.sequence import BlockHash, Sequence
from frontend.callers import ANYBODY
from kvtransfer.endpoints import SHM
from kvtransfer.transport import Endpoint, Fence, Unreachable
from kvtransfer.wire import fence_from_proto
from tests.custody.arithmetic import BLOCK_BYTES, Memory, answer_to, blocks_of, bytes_of, changed
from tests.custody.network import Answer, Frame, KVChannel, Stream, Wires
from tests.custody.parts import PREFILLS, Decode, Frontend, Prefill, Request
from tests.custody.virtual import Clock, VirtualLoop

TIMED = (
    engine.clock,
    engine.session,
    kvtransfer.open_tickets,
    prefill.worker,
    decode.service,
    decode.worker,
    frontend.attempt,
    frontend.job,
    frontend.ledger,
    frontend.link,
    frontend.places,
)
ENDINGS = {"answered", "cancelled", "the frontend died", "too many attempts", "OVERLOADED", "UNAVAILABLE"}
ROUND_S = 0.1
MAX_ROUNDS = 1000


class World:
    """Nothing happens of itself: each method is one thing that happens."""

    def __init__(self, transport: str, *, overlaps: bool = False) -> None:
        self.clock = Clock()
        self.loop = VirtualLoop(self.clock)
        self.wires = Wires(self.loop)
        self.streams: list[Stream] = []
        self.requests: list[Request] = []
        self.seen: Counter[str] = Counter()
        """How often the interesting things happened."""
        self._transport = transport
        self._overlaps = overlaps
        self._content: dict[BlockHash, bytes] = {}
        self._starts, self._names = count(1), count(1)
        self._patch = pytest.MonkeyPatch()
        self._patch_modules()
        self.workers: dict[str, Decode | Prefill | None] = dict.fromkeys((*PREFILLS, "decode"))
        for name in self.workers:
            self.start(name)
        self.frontend = self._new_frontend()
        self.go_on(2)

    def _patch_modules(self) -> None:
        for module in TIMED:
            self._patch.setattr(module, "time", self.clock)
        self._patch.setattr(decode.worker, "secrets", self)
        connect = lambda _context, _curve, address: self._connect_kv(address, None)  # noqa: E731 - as a class is called
        self._patch.setattr(kvtransfer.zeromq, "ZeroMQChannel", connect)
        self._patch.setattr(kvtransfer.pieces, "FRAME_BYTES", BLOCK_BYTES)
        self._patch.setattr(kvtransfer.shm.Way, "max_sources", lambda _self, _block_bytes: 1)

    def token_hex(self, _: int) -> str:
        """Ids of tickets repeat after a restart: only the fence tells such tickets apart."""
        return f"ticket-{next(self._tickets)}"

    # -- processes ---------------------------------------------------------------------------------------------------

    @property
    def decode(self) -> Decode | None:
        worker = self.workers["decode"]
        assert worker is None or isinstance(worker, Decode)
        return worker

    @property
    def prefills(self) -> list[Prefill]:
        """Those that live."""
        return [worker for worker in self.workers.values() if isinstance(worker, Prefill)]

    @property
    def prefilling(self) -> list[Prefill]:
        """Those that have something to compute or to send."""
        return [worker for worker in self.prefills if worker.worker.holders()]

    def start(self, name: str) -> None:
        incarnation = f"start-{next(self._starts)}"
        if name == "decode":
            self._tickets = count(1)
            # A name that nobody can guess is never heard again; a port may be listened to by somebody else later.
            address = f"shm://host/{incarnation}" if self._transport == SHM else "tcp://decode:1"
            self.workers[name] = self.loop.run(
                partial(Decode, self.loop, Endpoint(self._transport, address), incarnation, overlaps=self._overlaps)
            )
        else:
            make = partial(Prefill, self.loop, name, self._transport, self._connect_kv, incarnation)
            self.workers[name] = self.loop.run(make)

    def kill(self, name: str) -> None:
        worker = self.workers[name]
        assert worker is not None
        self.workers[name] = None
        self.loop.run(worker.end)
        for stream in self.streams:
            if stream.worker == name:
                stream.break_at_worker()
        for channel in self.wires.channels:
            channel.broken |= isinstance(worker, Decode) and channel.address == worker.receiver.endpoint.address
        self.loop.settle()

    def kill_frontend(self) -> None:
        self.frontend.end()
        self.frontend = self._new_frontend()
        self.loop.settle()

    def _new_frontend(self) -> Frontend:
        name = f"frontend-{next(self._names)}"
        return self.loop.run(lambda: Frontend(self.loop, name, self._connect))

    def _connect(self, name: str, frontend: str) -> Stream | None:
        if (worker := self.workers[name]) is None:
            return None
        stream = Stream(self.loop, worker.service.sessions, name, frontend)
        self.streams.append(stream)
        return stream

    def _connect_kv(self, address: str, memory: Memory | None) -> KVChannel:
        if memory is not None and (self.decode is None or self.decode.receiver.endpoint.address != address):
            raise Unreachable(f"nobody listens at {address}")
        return self.wires.connect(address, memory)

    # -- requests ----------------------------------------------------------------------------------------------------

    def ask(self, prompt: list[int], max_tokens: int) -> Request:
        expected = answer_to(prompt, max_tokens)
        self._content.update(blocks_of([*prompt, *expected], ANYBODY.hash_root))
        request = Request(f"r{len(self.requests)}", prompt, max_tokens, expected)
        self.requests.append(request)
        self.loop.run(partial(self.frontend.ask, request))
        return request

    @property
    def open_requests(self) -> list[Request]:
        return [request for request in self.requests if not request.outcome]

    def cancel(self, request: Request) -> None:
        assert request.task is not None
        request.task.cancel()
        self.loop.settle()

    # -- messages ----------------------------------------------------------------------------------------------------

    def tell(self, stream: Stream, index: int, *, keep: bool = False) -> None:
        """A command arrives; one that is kept arrives again."""
        command = stream.commands[index] if keep else stream.commands.pop(index)
        stream.tell(command)
        self.loop.settle()

    def hear(self, stream: Stream) -> None:
        stream.hear()
        self.loop.settle()

    def arrive(self, frame: Frame, *, keep: bool = False) -> None:
        """A frame arrives at whoever listens there now, and may write what is its ticket's."""
        if not keep:
            self.wires.frames.remove(frame)
        worker = self.decode
        if worker is None or worker.receiver.endpoint.address != frame.channel.address:
            return
        before, fenced = bytes(worker.memory.content), worker.receiver.fenced_writes
        answer = worker.receiver.serve(frame)
        self.seen["fenced"] += worker.receiver.fenced_writes - fenced
        for block in changed(before, worker.memory):
            _check_may_write(worker, fence_from_proto(frame.header.fence), block)
        if not (frame.channel.closed or frame.channel.broken):
            self.wires.answers.append(Answer(frame.channel, answer))

    def answer(self, answer: Answer, *, keep: bool = False) -> None:
        if not keep:
            self.wires.answers.remove(answer)
        answer.channel.come(answer.data)
        self.loop.settle()

    def cut(self, channel: KVChannel) -> None:
        """A KV connection is lost, with the answers on their way."""
        channel.broken = True
        self.wires.answers = [answer for answer in self.wires.answers if answer.channel is not channel]

    # -- steps and time ----------------------------------------------------------------------------------------------

    def turn(self, name: str, num_meanwhile: int = 0) -> None:
        """A worker's step, during which so many frames may arrive."""
        if (worker := self.workers[name]) is None:
            return
        left = iter(range(num_meanwhile))

        def meanwhile() -> None:
            if self.wires.frames and next(left, None) is not None:
                self.arrive(self.wires.next_frames()[0])

        worker.during_step = meanwhile
        if self.decode is not None:
            self.decode.receiver.before_revoke = meanwhile
        worker.turn()

    def hear_steps(self, name: str) -> None:
        if (worker := self.workers[name]) is not None:
            worker.hear()
            self.loop.settle()

    def wait(self, seconds: float) -> None:
        self.loop.advance(seconds)

    def go_on(self, rounds: int, held_up: str = "") -> None:
        """All under way arrives but what is `held_up`, everybody who lives does his work, and a moment passes."""
        for _ in range(rounds):
            for stream in list(self.streams):
                self._settle_stream(stream, held_up)
            while self.wires.frames and held_up != "frames":
                self.arrive(self.wires.frames[0])
            while self.wires.answers and held_up != "answers":
                self.answer(self.wires.answers[0])
            for channel in [channel for channel in self.wires.channels if channel.broken]:
                channel.notice()
            self.loop.settle()
            for name in self.workers:
                self.turn(name)
                self.hear_steps(name)
            self.wait(ROUND_S)
            self.streams = [stream for stream in self.streams if not stream.over]

    def _settle_stream(self, stream: Stream, held_up: str) -> None:
        while stream.commands and held_up != "commands":
            self.tell(stream, 0)
        while stream.events and held_up != "events":
            self.hear(stream)
        if stream.worker_left and not stream.frontend_left:
            stream.break_at_frontend()
        if stream.frontend_left and not stream.worker_left:
            stream.break_at_worker()
        self.loop.settle()

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Now, and at any other moment."""
        for worker in filter(None, self.workers.values()):
            worker.worker.check()
            self._check_content(worker)
        if self.decode is not None:
            _check_open(self.decode)
            if self.decode.device is not None:
                self.decode.device.check()
        for worker in self.prefills:
            _check_sources(worker, self.wires.channels)

    def check_quiet(self) -> None:
        """Whatever happened: without further faults every request ends, and then nobody holds anything."""
        for name, worker in self.workers.items():
            if worker is None:
                self.start(name)
        for _ in range(MAX_ROUNDS):
            self.go_on(1)
            self.check()
            if not self._left():
                break
        assert not self._left(), json.dumps(self._left(), indent=1, default=str)
        for request in self.requests:
            assert request.outcome in ENDINGS, f"{request.name}: {request.outcome}"
            if request.outcome == "answered":
                assert request.heard == request.expected
        for worker in filter(None, self.workers.values()):
            pool = worker.worker.scheduler.pool
            assert pool.num_leaked() == pool.num_leaked_when_idle == 0
            assert pool.num_available == pool.num_blocks

    def check_alive(self) -> None:
        """What is left of all that serves the next one."""
        request = self.ask([1, 2, 3, 4, 5, 6, 7], 4)
        self.check_quiet()
        assert request.outcome == "answered", f"the next one: {request.outcome}"

    def _left(self) -> dict[str, object]:
        """What is not over yet."""
        left: dict[str, object] = {
            "requests": [request.name for request in self.open_requests],
            "frontend": self.frontend.num_held,
            "frames": len(self.wires.frames) + len(self.wires.answers),
            "streams that are down": len(self.workers) - len(self.frontend.links_up),
        }
        for name, worker in self.workers.items():
            assert worker is not None
            left[f"{name} holders"] = worker.worker.holders()
            left[f"{name} legs"] = list(worker.service.sessions._legs)
        if self.decode is not None:
            left["tickets"] = [*self.decode.receiver.open_tickets, *self.decode.worker._tickets]
        left["transfers"] = [leg for prefill in self.prefills for leg in prefill.service._outgoing]
        return {what: which for what, which in left.items() if which}

    def _check_content(self, worker: Decode | Prefill) -> None:
        """What is computed or cached is what it says it is."""
        for sequence in _sequences(worker):
            expected = bytes_of(sequence.tokens[: sequence.num_computed])
            found = b"".join(worker.memory.block(block) for block in sequence.blocks)[: len(expected)]
            assert found == expected, f"the KV of {sequence.id} on {worker.who.worker_id} is not its own"
        for block_hash, block in worker.worker.scheduler.pool._block_of.items():
            expected = self._content[block_hash]
            assert worker.memory.block(block) == expected, f"{worker.who.worker_id} caches what is not there: {block}"

    def close(self) -> None:
        self.frontend.end()
        for name, worker in self.workers.items():
            if worker is not None:
                self.kill(name)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.settle()
        self.loop.close()
        self._patch.undo()


def _sequences(worker: Decode | Prefill) -> list[Sequence]:
    scheduler = worker.worker.scheduler
    if isinstance(worker, Decode):
        return [resident.sequence for resident in scheduler._residents.values()]  # type: ignore[union-attr]
    return [prompt.sequence for prompt in scheduler._prompts.values()]  # type: ignore[union-attr]


def _check_may_write(worker: Decode, fence: Fence, block: int) -> None:
    """A block was written under this fence: it must be its ticket's, and its owner's alone, who waits for it."""
    promised = worker.receiver.promised.get(fence)
    assert promised is not None, f"block {block} was written under {fence}, which this worker never gave"
    owner, slots = promised
    assert block in slots, f"block {block} was written, which is not its ticket's"
    granted = worker.receiver.granted[owner]
    assert granted == fence, f"block {block} was written under {fence}; {owner} was granted {granted} since"
    pool = worker.worker.scheduler.pool
    owners = [each for each in pool.owners if block in pool.blocks_of(each)]
    assert owners == [owner], f"block {block} was written for {owner} and belongs to {owners}"
    (state,) = [holder.state for holder in worker.worker.holders() if holder.id == owner]
    assert state == "reserved", f"block {block} was written although its owner is {state}"


def _check_open(worker: Decode) -> None:
    """What may be written belongs to who was promised it, alone."""
    tickets = worker.receiver.tickets._open
    pool = worker.worker.scheduler.pool
    for ticket_id, filling in tickets.items():
        owner = worker.reserved(ticket_id)
        assert owner is not None
        for block in filling.slots.tolist():
            owners = [each for each in pool.owners if block in pool.blocks_of(each)]
            assert owners == [owner], f"block {block} may be written for {owner} and belongs to {owners}"


def _check_sources(worker: Prefill, channels: list[KVChannel]) -> None:
    """What a receiver may be reading is not free and has not changed."""
    pool = worker.worker.scheduler.pool
    for channel in channels:
        if channel.memory is not worker.memory:
            continue
        for blocks in channel.unanswered.values():
            for block, content in blocks.items():
                assert pool._ref_counts[block], f"block {block} is freed while a receiver may read it"
                assert worker.memory.block(block) == content, f"block {block} changed while a receiver may read it"
