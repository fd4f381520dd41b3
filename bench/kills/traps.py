"""Traps: calls of `Passed` at the moments of `bench.kills.phases`, put around the workers' own functions.

A module's traps are set as soon as it was imported, before anything of it runs. Nothing of the workers' own code knows
of them. Standard library only, but for what the trapped modules have imported themselves.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Protocol

LEAVES_S = 0.005
"""What was handed to gRPC, libzmq or the kernel is on its way by then."""
HOLD_S = 2.0
"""How long one event of a worker is held back, where a moment is between it and another."""
Put = Callable[[Any, str, object], None]


class Passed(Protocol):
    """What hears of moments."""

    def armed_for(self, moment: str) -> bool: ...

    def passed(self, moment: str, number: int | None = None, linger_s: float = 0.0) -> None: ...


def set_when_imported(trap: Passed) -> None:
    sys.meta_path.insert(0, _Finder(Traps(trap)))


class _Finder(MetaPathFinder):
    """Finds the trapped modules where they are, and sets their traps when they were executed."""

    def __init__(self, traps: "Traps") -> None:
        self._traps = traps

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._traps.by_module or (spec := PathFinder.find_spec(name, path, target)) is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._traps.set(module)

        loader.exec_module = exec_module
        return spec


class Traps:
    """All of them, by the module that they are in."""

    def __init__(self, trap: Passed, put: Put = setattr) -> None:
        self._trap = trap
        self._put = put
        self._draining = False
        self._num_completed = self._num_acked = 0
        self._frames: dict[int, tuple[str, int]] = {}
        """Of frames under way: whether they are chunks or a COMMIT, and the how many-th of the ticket."""
        self._num_frames: Counter[str] = Counter()
        self._first_sent: set[int] = set()
        """Legs whose first token was sent; there is one frontend, and its numbers are used once."""
        self._leg: ContextVar[int] = ContextVar("leg")
        self.by_module: dict[str, Callable[[Any], None]] = {
            "engine.session": self._sessions,
            "engine.sampler": self._sampler,
            "decode.service": self._decode_service,
            "decode.worker": self._decode_worker,
            "kvtransfer.open_tickets": self._open_tickets,
            "kvtransfer.pieces": self._pieces,
            "kvtransfer.shm_peer": self._shm_peer,
            "kvtransfer.receiver": self._receiver,
            "kvtransfer.shm_receiver": lambda module: self._acks(module.ShmReceiver),
            "kvtransfer.zeromq_receiver": lambda module: self._acks(module.ZeroMQReceiver),
            "kvtransfer.shm_channel": lambda module: self._channel(module.ShmChannel),
            "kvtransfer.zeromq_channel": lambda module: self._channel(module.ZeroMQChannel),
            "kvtransfer.endpoints": self._senders,
            "prefill.service": self._prefill_service,
            "prefill.worker": self._prefill_worker,
            "prefill.scheduler": self._prefill_scheduler,
        }

    def set(self, module: ModuleType) -> None:
        self.by_module[module.__name__](module)

    def _passed(self, moment: str, number: int | None = None, linger_s: float = 0.0) -> None:
        self._trap.passed(moment, number, linger_s)
        if self._draining:
            self._trap.passed(f"draining, {moment}", None, linger_s)

    def _around(
        self, owner: Any, name: str, before: str = "", after: str = "", when: Callable[[Any], bool] = lambda _: True
    ) -> None:
        """Moments before and after each call of a function; the one after it only for results that `when` accepts."""
        original = getattr(owner, name)

        @wraps(original)
        def trapped(*args: Any, **kwargs: Any) -> Any:
            if before:
                self._passed(before)
            result = original(*args, **kwargs)
            if after and when(result):
                self._passed(after)
            return result

        self._put(owner, name, trapped)

    # -- both roles --------------------------------------------------------------------------------------------------

    def _sessions(self, module: Any) -> None:
        original, drain, traps = module.Sessions.Session, module.Sessions.drain, self

        @wraps(original)
        async def session(self: Any, commands: Any, context: Any) -> AsyncIterator[Any]:
            """A generator goes on after `yield` when gRPC has written what it yielded."""
            is_prefill = type(self._role).__module__.startswith("prefill")
            async with aclosing(original(self, commands, context)) as events:
                async for event in events:
                    moments = _moments_of(event, is_prefill)
                    for moment in moments:
                        traps._passed(f"{moment} not sent")
                    yield event
                    traps._first_sent.update(event.step_output.legs if "token 1" in moments else ())
                    for moment in moments:
                        traps._passed(f"{moment} sent", None, LEAVES_S)

        @wraps(drain)
        async def drained(self: Any) -> None:
            traps._draining = True
            traps._trap.passed("drain begins")
            await drain(self)
            traps._trap.passed("drained")

        self._put(module.Sessions, "Session", session)
        self._put(module.Sessions, "drain", drained)

    def _sampler(self, module: Any) -> None:
        self._around(module.Sampler, "__call__", "amid a step")

    # -- decode ------------------------------------------------------------------------------------------------------

    def _decode_service(self, module: Any) -> None:
        self._around(module.DecodeService, "admit", "Admit came")
        self._around(module.DecodeService, "abort", "Abort came")
        self._around(module.DecodeService, "_send_prefill_done", "prompt computed here, not told")

    def _decode_worker(self, module: Any) -> None:
        granted = module.Granted
        self._around(
            module.DecodeWorker, "_reserve", after="room reserved, not granted", when=lambda e: isinstance(e, granted)
        )
        self._around(module.DecodeWorker, "_give_up", after="given up, not told")
        self._around(module.DecodeWorker, "_join", after="joined the batch", when=bool)
        join, acked = module.DecodeWorker._join, "COMMIT's Ack sent, not in the batch"

        @wraps(join)
        def joins(worker: Any, arrived: Any) -> Any:
            until_s = time.monotonic() + HOLD_S
            while self._trap.armed_for(acked) and self._num_acked < self._num_completed and time.monotonic() < until_s:
                time.sleep(0.001)
            if self._num_acked == self._num_completed:
                self._passed(acked, None, LEAVES_S)
            return join(worker, arrived)

        self._put(module.DecodeWorker, "_join", joins)

    def _open_tickets(self, module: Any) -> None:
        for name in ("fill_pieces", "fill_blocks"):
            self._around(module.OpenTickets, name, "KV frame came", "KV taken, no Ack")

    def _pieces(self, module: Any) -> None:
        self._around(module.Pieces, "scatter", after="KV copied, not counted")

    def _shm_peer(self, module: Any) -> None:
        self._around(module.Peer, "copy", after="KV copied, not counted")

    def _receiver(self, module: Any) -> None:
        complete = module.TicketReceiver.complete

        @wraps(complete)
        def completes(*args: Any) -> None:
            self._passed("COMMIT came")
            self._num_completed += 1
            try:
                complete(*args)
            except BaseException:
                self._num_completed -= 1
                raise
            self._passed("COMMIT taken, no Ack")

        self._put(module.TicketReceiver, "complete", completes)

    def _acks(self, receiver: Any) -> None:
        serve = receiver._serve

        @wraps(serve)
        def serves(*args: Any) -> None:
            serve(*args)
            self._num_acked = self._num_completed

        self._put(receiver, "_serve", serves)

    # -- prefill -----------------------------------------------------------------------------------------------------

    def _prefill_service(self, module: Any) -> None:
        self._around(module.PrefillService, "admit", "Admit came")
        self._around(module.PrefillService, "abort", "Abort came")
        push = module.PrefillService._push

        @wraps(push)
        async def pushes(self_: Any, leg: Any, *args: Any) -> None:
            self._leg.set(leg.number)  # of this task
            await push(self_, leg, *args)

        self._put(module.PrefillService, "_push", pushes)

    def _prefill_worker(self, module: Any) -> None:
        queued = module.Queued
        self._around(
            module.PrefillWorker,
            "_admit",
            after="queued, not granted",
            when=lambda events: any(isinstance(event, queued) for event in events),
        )

    def _prefill_scheduler(self, module: Any) -> None:
        scheduler = module.PrefillScheduler
        self._around(scheduler, "close", after="blocks let go, not told", when=bool)
        plan, commit = scheduler.plan, scheduler.commit

        @wraps(plan)
        def plans(self_: Any) -> Any:
            chunks = plan(self_)
            for chunk in chunks:
                self._passed("chunk planned", self_._prompts[chunk.sequence.id].num_chunks + 1)
            return chunks

        @wraps(commit)
        def commits(self_: Any, chunks: Any, sampled: Any) -> Any:
            events = commit(self_, chunks, sampled)
            for chunk in chunks:
                self._passed("chunk computed", self_._prompts[chunk.sequence.id].num_chunks)
            return events

        self._put(scheduler, "plan", plans)
        self._put(scheduler, "commit", commits)

    def _channel(self, channel: Any) -> None:
        from protos import kvtransfer_pb2 as pb  # not before the worker's own modules

        send, receive = channel.send, channel.receive

        @wraps(send)
        def sends(self_: Any, message: Any) -> None:
            frame = pb.SenderFrame.FromString(message.header)
            kind = "COMMIT" if frame.HasField("commit") else "chunk"
            ticket = frame.fence.ticket_id
            self._num_frames[ticket] += 1
            number = self._num_frames[ticket]
            self._frames[frame.number] = kind, number
            send(self_, message)
            self._passed(f"{kind} sent, no Ack", number if kind == "chunk" else None, LEAVES_S)
            if kind == "COMMIT":
                del self._num_frames[ticket]

        @wraps(receive)
        def receives(self_: Any) -> bytes | None:
            answer: bytes | None = receive(self_)
            frame = pb.ReceiverFrame.FromString(answer or b"")
            if frame.HasField("ack") and (sent := self._frames.pop(frame.number, None)):
                kind, number = sent
                self._passed(f"{kind}'s Ack came, not taken", number if kind == "chunk" else None)
            return answer

        self._put(channel, "send", sends)
        self._put(channel, "receive", receives)

    def _senders(self, module: Any) -> None:
        commit, moment = module.Senders.commit, "token 1 sent, no COMMIT"

        @wraps(commit)
        async def commits(*args: Any) -> None:
            leg, until_s = self._leg.get(), time.monotonic() + HOLD_S
            while self._trap.armed_for(moment) and leg not in self._first_sent and time.monotonic() < until_s:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            if leg in self._first_sent:
                self._passed(moment, None, LEAVES_S)
                self._first_sent.discard(leg)
            await commit(*args)

        self._put(module.Senders, "commit", commits)


def _moments_of(event: Any, is_prefill: bool) -> list[str]:
    """What an event to a frontend is called."""
    match event.WhichOneof("event"):
        case "granted":
            return ["Granted"]
        case "released":
            return ["Released"]
        case "step_output" if is_prefill:
            return ["token 1"]
        case "step_output":
            return ["tokens", "last token"] if any(event.step_output.finish_reasons) else ["tokens"]
        case _:
            return []
