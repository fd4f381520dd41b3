"""One connection from a prefill worker to one receiver: frames out, answers in, credit between them.

Belongs to one event loop. A link ends as a whole (connection lost, stalled, closed) and is then never used again; its
sender makes another one. Knows frames and who waits for their answers. Does not know what the frames say, nor what
carries them: that is a `Channel`.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import DecodeError

from engine.errors import TransferFailed
from kvtransfer.call import Call
from kvtransfer.credit import Credit
from kvtransfer.frame_buffers import Payload
from kvtransfer.pieces import FRAME_BYTES
from kvtransfer.speed import Speed
from kvtransfer.transport import Fence
from kvtransfer.wire import fence_from_proto
from protos import kvtransfer_pb2 as pb

MIN_COST = 64 << 10
"""Credit that a frame takes at least: bounds the number of frames under way as well."""


@dataclass(frozen=True, slots=True)
class Message:
    """What travels: a header and, where the receiver has no other way to the bytes, the first of a buffer's."""

    header: bytes
    payload: Payload | None = None
    payload_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """One message to the receiver, and what its answer will name."""

    fence: Fence
    number: int
    message: Callable[[], Message]
    """Called once there is credit: what waits for its turn holds no memory."""
    size_bytes: int = 0
    """Of the pool's bytes that it moves."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a link puts up with."""

    stall_s: float
    """Without an answer to the oldest frame for this long, the link has failed."""
    max_bytes: int
    """Under way to the peer."""
    min_cost: int = MIN_COST


class Channel(Protocol):
    """Carries frames to one receiver, in order."""

    @property
    def filenos(self) -> Sequence[int]:
        """Become readable when there is an answer to receive, or the connection is lost."""

    @property
    def reads_blocks(self) -> bool:
        """Whether the receiver reads the pool's blocks itself, until it answers."""

    def send(self, message: Message) -> None:
        """Never waits. Raises TransferFailed."""

    def receive(self) -> bytes | None:
        """The next answer, if one has come."""

    def lost(self) -> str | None:
        """Why there will be no further answers, if so."""

    def close(self) -> None:
        """Drop what was not sent."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame under way."""

    call: Call
    size_bytes: int
    cost: int
    payload: Payload | None


class Link:
    """Calls over one channel; `on_closed` is called once, when the link has ended; `total_speed` outlives it."""

    def __init__(
        self,
        channel: Channel,
        address: str,
        limits: Limits,
        total_speed: Speed,
        on_closed: Callable[["Link"], None],
    ) -> None:
        self.address = address
        self.speed = Speed()
        self._channel = channel
        self._total_speed = total_speed
        self._limits = limits
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._credit = Credit(max(limits.max_bytes, FRAME_BYTES))
        self._calls: set[Call] = set()
        self._sent: dict[tuple[Fence, int], _Sent] = {}
        self._error: TransferFailed | None = None
        self._progress_s = self._loop.time()
        self._timer = self._loop.call_later(limits.stall_s, self._check_stall)
        for fileno in channel.filenos:
            self._loop.add_reader(fileno, self._wake)
        self._loop.call_soon(self._wake)  # a channel may announce only what comes after one has looked in vain

    @property
    def idle(self) -> bool:
        return not self._calls

    async def run(self, frames: Iterable[Frame]) -> None:
        """Send `frames` and return when all are acknowledged; however it ends, their blocks are no longer read."""
        call = Call()
        self._calls.add(call)
        try:
            await self._run(frames, call)
        finally:
            try:
                if self._channel.reads_blocks:
                    await call.settled_whatever_comes()
            finally:
                self._calls.discard(call)

    async def _run(self, frames: Iterable[Frame], call: Call) -> None:
        for frame in frames:
            await self._send(frame, call)
            call.check()
        await call.settled()
        call.check()

    def close(self, error: TransferFailed) -> None:
        """End the link; every call on it fails with `error`.

        Libzmq drops what it did not send. It may still be reading a frame for a moment, whose buffer is not used again.
        """
        if self._error:
            return
        self._error = error
        self._timer.cancel()
        for fileno in self._channel.filenos:
            self._loop.remove_reader(fileno)
        self._channel.close()
        sent, self._sent = self._sent, {}
        for frame in sent.values():
            frame.call.answered(error)
        self._credit.close()
        self._on_closed(self)

    async def _send(self, frame: Frame, call: Call) -> None:
        cost = max(self._limits.min_cost, frame.size_bytes)
        await self._credit.take(cost)
        if self._error:
            raise self._error
        message = frame.message()
        if not self._sent:
            self._progress_s = self._loop.time()
        self._sent[frame.fence, frame.number] = _Sent(call, frame.size_bytes, cost, message.payload)
        call.sent()
        try:
            self._channel.send(message)
        except TransferFailed as error:
            self.close(error)
        self._receive()  # sending may have consumed the wake-up that announced an answer

    def _receive(self) -> None:
        while not self._error and (answer := self._channel.receive()) is not None:
            try:
                self._take(pb.ReceiverFrame.FromString(answer))
            except DecodeError:
                self.close(TransferFailed(f"{self.address} answers what is no frame"))

    def _wake(self) -> None:
        self._receive()
        if not self._error and (reason := self._channel.lost()):
            self._receive()
            self.close(TransferFailed(reason))  # frames under way may be lost with the connection

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
        if sent.payload:
            sent.payload.release()
        sent.call.answered(_refusal(self.address, answer))

    def _check_stall(self) -> None:
        self._receive()  # the loop may have been busy for long itself
        if self._error:
            return
        idle_s = self._loop.time() - self._progress_s if self._sent else 0.0
        if idle_s >= self._limits.stall_s:
            self.close(TransferFailed(f"{self.address} took nothing for {idle_s:.1f} s", why="stalled"))
        else:
            self._timer = self._loop.call_later(self._limits.stall_s - idle_s, self._check_stall)


def _refusal(address: str, answer: pb.ReceiverFrame) -> TransferFailed | None:
    if answer.HasField("ack"):
        return None
    known = answer.nack.reason in pb.NackReason.values()
    reason = pb.NackReason.Name(answer.nack.reason).removeprefix("NACK_REASON_") if known else "UNKNOWN"
    message = f"{address} refused ticket {answer.fence.ticket_id}: {reason}: {answer.nack.message}"
    return TransferFailed(message, why="refused")
