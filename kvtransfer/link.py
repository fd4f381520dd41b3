"""One ZeroMQ connection from a prefill worker to one receiver: frames out, answers in, credit between them.

Belongs to one event loop. A link ends as a whole (connection lost, stalled, closed) and is then never used again; its
sender makes another one. Knows frames and who waits for their answers. Does not know what the frames say.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import zmq
from google.protobuf.message import DecodeError

from engine.errors import TransferFailed
from kvtransfer.call import Call
from kvtransfer.credit import Credit
from kvtransfer.speed import Speed
from kvtransfer.transport import Fence
from kvtransfer.wire import FRAME_BYTES, MAX_HEADER_BYTES, fence_from_proto
from protos import kvtransfer_pb2 as pb

MIN_COST = 64 << 10
"""Credit that a frame takes at least: bounds the number of frames under way as well."""
KEEPALIVE_S = 15
LAST, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
"""Flags of a message's parts; as plain integers, for an enum's `|` takes as long as sending does."""
READABLE = int(zmq.POLLIN)


@dataclass(frozen=True, slots=True)
class Frame:
    """One message to the receiver, and what its answer will name."""

    fence: Fence
    number: int
    header: bytes
    parts: Sequence[memoryview] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a link puts up with."""

    stall_s: float
    """Without an answer to the oldest frame for this long, the link has failed."""
    max_bytes: int
    """Under way to the peer."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame under way."""

    call: Call
    size_bytes: int
    cost: int
    trackers: list[zmq.MessageTracker] = field(default_factory=list)


class Link:
    """A DEALER socket; `on_closed` is called once, when the link has ended; `total_speed` outlives it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        limits: Limits,
        total_speed: Speed,
        on_closed: Callable[["Link"], None],
    ) -> None:
        self.address = address
        self.speed = Speed()
        self._total_speed = total_speed
        self._limits = limits
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._credit = Credit(max(limits.max_bytes, FRAME_BYTES))
        self._calls: set[Call] = set()
        self._sent: dict[tuple[Fence, int], _Sent] = {}
        self._error: TransferFailed | None = None
        self._socket, self._monitor = _connect(context, address)
        self._progress_s = self._loop.time()
        self._timer = self._loop.call_later(limits.stall_s, self._check_stall)
        self._loop.add_reader(self._socket.FD, self._receive)
        self._loop.add_reader(self._monitor.FD, self._receive_event)
        self._receive_event()  # libzmq announces only what comes after one has looked in vain

    @property
    def idle(self) -> bool:
        return not self._calls

    async def run(self, frames: Iterable[Frame]) -> None:
        """Send `frames` and return when all are acknowledged; however it ends, their parts are no longer read."""
        call = Call()
        self._calls.add(call)
        try:
            await self._run(frames, call)
        except asyncio.CancelledError:
            if call.pending and self._calls == {call}:  # nobody else's frames are under way: the quickest end
                self.close(TransferFailed(f"the transfer to {self.address} was cancelled"))
            raise
        finally:
            try:
                await call.released()
            finally:
                self._calls.discard(call)

    async def _run(self, frames: Iterable[Frame], call: Call) -> None:
        for frame in frames:
            await self._send(frame, call)
            call.check()
        await call.settled()
        call.check()

    def close(self, error: TransferFailed) -> None:
        """End the link; every call on it fails with `error`. libzmq drops what it did not send."""
        if self._error:
            return
        self._error = error
        self._timer.cancel()
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        sent, self._sent = self._sent, {}
        for frame in sent.values():
            frame.call.answered(frame.trackers, error)
        self._credit.close()
        self._on_closed(self)

    async def _send(self, frame: Frame, call: Call) -> None:
        size_bytes = sum(len(part) for part in frame.parts)
        sent = _Sent(call, size_bytes, max(MIN_COST, size_bytes))
        await self._credit.take(sent.cost)
        if self._error:
            raise self._error
        if not self._sent:
            self._progress_s = self._loop.time()
        self._sent[frame.fence, frame.number] = sent
        call.sent()
        try:
            self._transmit(frame, sent.trackers)
        except zmq.ZMQError as error:
            self.close(TransferFailed(f"cannot send to {self.address}: {error.strerror}"))
        self._receive()  # sending may have consumed the wake-up that announced an answer

    def _transmit(self, frame: Frame, trackers: list[zmq.MessageTracker]) -> None:
        last = len(frame.parts)
        self._socket.send(frame.header, MORE if last else LAST)
        for i, part in enumerate(frame.parts, 1):
            trackers.append(self._socket.send(part, MORE if i < last else LAST, copy=False, track=True))

    def _receive(self) -> None:
        while not self._error and _readable(self._socket):
            parts = self._socket.recv_multipart(LAST)
            try:
                self._take(pb.ReceiverFrame.FromString(parts[0]))
            except DecodeError:
                self.close(TransferFailed(f"{self.address} answers what is no frame"))

    def _take(self, answer: pb.ReceiverFrame) -> None:
        key = (fence_from_proto(answer.fence), answer.number)
        oldest = next(iter(self._sent), None)
        if (sent := self._sent.pop(key, None)) is None:
            return
        if key == oldest:  # answers come in order: an older frame without one is lost, and stalls the link
            now = self._loop.time()
            if sent.size_bytes:
                self.speed.add(sent.size_bytes, now - self._progress_s)
                self._total_speed.add(sent.size_bytes, now - self._progress_s)
            self._progress_s = now
        self._credit.give(sent.cost)
        sent.call.answered(sent.trackers, _refusal(self.address, answer))

    def _receive_event(self) -> None:
        """The one event asked for is a lost connection; frames under way may be lost with it."""
        if not self._error and _readable(self._monitor):
            self._receive()
            self.close(TransferFailed(f"the connection to {self.address} was lost"))

    def _check_stall(self) -> None:
        self._receive()  # the loop may have been busy for long itself
        if self._error:
            return
        idle_s = self._loop.time() - self._progress_s if self._sent else 0.0
        if idle_s >= self._limits.stall_s:
            self.close(TransferFailed(f"{self.address} took nothing for {idle_s:.1f} s"))
        else:
            self._timer = self._loop.call_later(self._limits.stall_s - idle_s, self._check_stall)


def _connect(context: zmq.Context[zmq.Socket[bytes]], address: str) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """The socket, and where it tells of a lost connection."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)  # credit is the limit
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * MAX_HEADER_BYTES)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
    socket.setsockopt(zmq.IPV6, "[" in address)
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=0)
        raise TransferFailed(f"cannot connect to {address}: {error.strerror}") from error
    return socket, monitor


def _readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(cast("int", socket.getsockopt(zmq.EVENTS)) & READABLE)


def _refusal(address: str, answer: pb.ReceiverFrame) -> TransferFailed | None:
    if answer.HasField("ack"):
        return None
    known = answer.nack.reason in pb.NackReason.values()
    reason = pb.NackReason.Name(answer.nack.reason).removeprefix("NACK_REASON_") if known else "UNKNOWN"
    return TransferFailed(f"{address} refused ticket {answer.fence.ticket_id}: {reason}: {answer.nack.message}")
