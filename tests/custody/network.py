"""What lies between the processes: streams and KV connections, on which a message moves when the test says so.

Streams keep the order of events and lose only their end, as TCP does; commands may also get lost, doubled or overtaken,
which is more than TCP does: leases are there to make up for it. Over ZeroMQ's KV connections anything may happen to a
frame, and frames of a process that is gone may still arrive, even at its successor. A receiver that copies out of the
sender's memory has a Unix socket, which loses nothing but its end.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType

import grpc
import grpc.aio

from engine.errors import TransferFailed
from engine.session import Sessions
from kvtransfer.frame_buffers import FrameBuffer
from kvtransfer.link import Message
from protos import kvtransfer_pb2 as kv
from protos import worker_pb2 as pb
from tests.custody.arithmetic import Memory
from tests.custody.virtual import VirtualLoop


class Stream:
    """One stream of one frontend to one start of one worker."""

    def __init__(self, loop: VirtualLoop, sessions: Sessions, worker: str, name: str) -> None:
        self.commands: list[pb.WorkerCommand] = []
        """Under way."""
        self.events: deque[pb.WorkerEvent] = deque()
        self.heard: asyncio.Queue[pb.WorkerEvent | None] = asyncio.Queue()
        """By the frontend; None: the stream broke."""
        self.frontend_left = False
        self.worker = worker
        self._name = name
        self._told: asyncio.Queue[pb.WorkerCommand] = asyncio.Queue()
        self._serving = loop.watch(loop.create_task(self._serve(sessions)))

    def peer(self) -> str:
        return self._name

    @property
    def worker_left(self) -> bool:
        return self._serving.done()

    @property
    def over(self) -> bool:
        return self.worker_left and self.frontend_left

    def tell(self, command: pb.WorkerCommand) -> None:
        """The command arrives."""
        self._told.put_nowait(command)

    def hear(self) -> None:
        """The oldest event under way arrives."""
        self.heard.put_nowait(self.events.popleft())

    def break_at_worker(self) -> None:
        self._serving.cancel()

    def break_at_frontend(self) -> None:
        self.heard.put_nowait(None)

    async def _serve(self, sessions: Sessions) -> None:
        async with aclosing(sessions.Session(self._arriving(), self)) as events:  # type: ignore[arg-type,type-var]
            async for event in events:
                self.events.append(event)

    async def _arriving(self) -> AsyncIterator[pb.WorkerCommand]:
        while True:
            yield await self._told.get()


class GrpcChannel:
    """What `frontend.link` makes its stub of; `connect` is None where nobody listens."""

    def __init__(self, connect: Callable[[], Stream | None]) -> None:
        self._connect = connect

    async def __aenter__(self) -> "GrpcChannel":
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None: ...

    def unary_unary(self, *_: object, **__: object) -> None: ...

    def stream_stream(self, *_: object, **__: object) -> Callable[..., AsyncIterator[pb.WorkerEvent]]:
        return self._session

    async def _session(self, commands: AsyncIterator[pb.WorkerCommand]) -> AsyncIterator[pb.WorkerEvent]:
        if (stream := self._connect()) is None:
            raise _unavailable("nobody listens")
        sending = asyncio.create_task(self._send(commands, stream))
        try:
            while (event := await stream.heard.get()) is not None:
                yield event
            raise _unavailable("the stream broke")
        finally:
            sending.cancel()
            stream.frontend_left = True

    async def _send(self, commands: AsyncIterator[pb.WorkerCommand], stream: Stream) -> None:
        async for command in commands:
            if not command.HasField("clock_probe"):  # nothing of custody hangs on it
                stream.commands.append(command)


def _unavailable(details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


@dataclass(eq=False)
class Frame:
    """One message from a prefill worker to a receiver, under way."""

    channel: "KVChannel"
    header: kv.SenderFrame
    payload: FrameBuffer | None
    payload_bytes: int

    def data(self) -> bytes:
        """As libzmq reads it: at the last moment."""
        return bytes(self.payload.bytes[: self.payload_bytes]) if self.payload else b""


@dataclass(eq=False)
class Answer:
    """One message back, under way."""

    channel: "KVChannel"
    data: bytes


@dataclass(eq=False)
class KVChannel:
    """A `kvtransfer.link.Channel`; with `memory`, the receiver copies out of it."""

    loop: VirtualLoop
    wires: "Wires"
    address: str
    memory: Memory | None
    fileno: int
    broken: bool = False
    """The connection is lost, whether or not this side has noticed."""
    closed: bool = False
    unanswered: dict[int, dict[int, bytes]] = field(default_factory=dict)
    """By frame, the blocks that the receiver may be reading, as they were when it was asked to."""
    _came: deque[bytes] = field(default_factory=deque)
    _noticed: bool = False

    @property
    def filenos(self) -> Sequence[int]:
        return (self.fileno,)

    @property
    def reads_blocks(self) -> bool:
        return self.memory is not None

    def send(self, message: Message) -> None:
        if self._noticed:
            raise TransferFailed("the connection was lost")
        header = kv.SenderFrame.FromString(message.header)
        if self.memory is not None:
            sources = header.copy.source_blocks
            self.unanswered[header.number] = {block: self.memory.block(block) for block in sources}
        if not self.broken:
            self.wires.frames.append(Frame(self, header, message.payload, message.payload_bytes))

    def receive(self) -> bytes | None:
        if not self._came:
            return None
        answer = self._came.popleft()
        self.unanswered.pop(kv.ReceiverFrame.FromString(answer).number, None)
        return answer

    def lost(self) -> str | None:
        return "the connection was lost" if self._noticed else None

    def close(self) -> None:
        self.closed = True
        self.unanswered.clear()
        self.wires.channels.remove(self)

    def come(self, answer: bytes) -> None:
        """An answer arrives."""
        if not self.closed:
            self._came.append(answer)
            self.loop.readers[self.fileno]()

    def notice(self) -> None:
        """This side learns that the connection is lost."""
        self._noticed = True
        if not self.closed:
            self.loop.readers[self.fileno]()


class Wires:
    """Every KV connection there is, and what is under way on them."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.channels: list[KVChannel] = []
        self.frames: list[Frame] = []
        self.answers: list[Answer] = []
        self._loop = loop
        self._filenos = count(10_000)

    def connect(self, address: str, memory: Memory | None) -> KVChannel:
        channel = KVChannel(self._loop, self, address, memory, next(self._filenos))
        self.channels.append(channel)
        return channel

    def next_frames(self) -> list[Frame]:
        """Those that may arrive next: any, but from memory that is copied out of in order."""
        first: dict[KVChannel, Frame] = {}
        for frame in self.frames:
            first.setdefault(frame.channel, frame)
        return [f for f in self.frames if f.channel.memory is None or first[f.channel] is f]
