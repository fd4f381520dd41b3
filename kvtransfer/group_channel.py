"""The channel of a link through a group of two: headers and answers over ZeroMQ, payloads through the group.

1. The connection begins with `join`. A thread makes the group, telling the receiver over the same connection what
   torch.distributed wants it to know, and then sends the payloads in the order of their headers.
2. If no group comes about, nothing was sent and nobody had anything of it: another transport may carry the tickets.
3. However it ends, group and connection end together; the next link makes both anew.
"""

import contextlib
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

import torch
import zmq
from google.protobuf.message import DecodeError

from engine.errors import TransferFailed
from kvtransfer.curve import Curve
from kvtransfer.group import CPU, SENDER, UNDER_WAY, Backend, Group, GroupLimits, Passing, device_id, own_host
from kvtransfer.link import Message
from kvtransfer.mirrored_store import MirroredStore
from kvtransfer.zeromq_channel import ZeroMQChannel
from protos import kvtransfer_pb2 as pb

logger = logging.getLogger(__name__)

LINGER_MS = 100
"""For telling the receiver that the group is not used any more."""


class GroupChannel:
    """`on_refused` is told why there is no group with this receiver, before the link ends."""

    reads_blocks = False

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        curve: Curve | None,
        backend: Backend,
        limits: GroupLimits,
        on_refused: Callable[[str], None],
        address: str,
        device: torch.device = CPU,
    ) -> None:
        self._address = address.partition("#")[0]
        self._backend: Backend = backend
        self._device = device
        self._limits = limits
        self._on_refused = on_refused
        self._host = own_host(address)
        self._control = ZeroMQChannel(context, curve, address)
        self._waker, self._wakened = socket.socketpair()
        self._wakened.setblocking(False)
        self.filenos = (*self._control.filenos, self._wakened.fileno())
        self._outbox: deque[bytes] = deque()
        self._payloads: SimpleQueue[torch.Tensor | None] = SimpleQueue()
        self._store = MirroredStore(self._push, limits.make_s)
        self._group: Group | None = None
        self._was_made = False
        self._closed = False
        self._lost: str | None = None
        self._control.send(_message(pb.SenderFrame(join=pb.Join(backend=backend, device=device_id(device)))))
        self.thread = threading.Thread(target=self._run, name="kv-group-sender", daemon=True)
        self.thread.start()

    # -- on the event loop -------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        self._flush()
        self._control.send(Message(message.header))
        if message.payload is not None:
            self._payloads.put(message.payload.tensor(message.payload_bytes))

    def receive(self) -> bytes | None:
        self._flush()
        while not self._lost and (answer := self._control.receive()) is not None:
            if not self._take(answer):
                return answer
        return None

    def lost(self) -> str | None:
        if reason := self._lost or self._control.lost():
            self._lost = reason
            if not self._was_made:
                self._on_refused(reason)
        return self._lost

    def close(self) -> None:
        self._closed = True
        self._store.close("the link was closed")
        self._payloads.put(None)
        if group := self._group:
            group.abort()
        self._control.leave(_message(pb.SenderFrame(leave=pb.Leave())), LINGER_MS)
        self._wakened.close()

    def _take(self, answer: bytes) -> bool:
        """Whether it was about the group, and not an answer to a frame."""
        try:
            frame = pb.ReceiverFrame.FromString(answer)
        except DecodeError:
            return False
        if frame.HasField("fence"):
            return False
        if frame.HasField("nack"):
            self._end(f"{self._address} has no group with this side: {frame.nack.message}")
        elif frame.HasField("stored") and not self._store.take(frame.stored.key, frame.stored.value):
            self._end(f"{self._address} says too much")
        return True

    def _end(self, why: str) -> None:
        """From any thread; the link looks for it when it is woken."""
        self._lost = self._lost or why
        self._wake()

    def _flush(self) -> None:
        """Send on what the thread has to say; a socket of ZeroMQ belongs to one thread."""
        with contextlib.suppress(BlockingIOError):
            while self._wakened.recv(4096):
                pass
        while self._outbox:
            self._control.send(Message(self._outbox.popleft()))

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._group = Group(self._backend, self._store, SENDER, self._host, self._limits, self._device)
            self._was_made = True
            if self._closed:
                return
            self._send_all(self._group)
        except TransferFailed as error:
            self._end(f"the group with {self._address} failed: {error.message}")
        except Exception:  # the thread's outermost frame: its link must end with it
            logger.exception("the group with %s failed", self._address)
            self._end(f"the group with {self._address} failed; the log says how")
        finally:
            self._group = None
            self._waker.close()

    def _send_all(self, group: Group) -> None:
        under_way: deque[Passing] = deque()
        while (payload := self._payloads.get()) is not None and not self._closed:
            under_way.append(group.begin_send(payload))
            while len(under_way) >= UNDER_WAY or (under_way and self._payloads.empty()):
                under_way.popleft().finish()

    def _push(self, key: str, value: bytes) -> None:
        self._outbox.append(pb.SenderFrame(stored=pb.Stored(key=key, value=value)).SerializeToString())
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # the link was closed meanwhile
            self._waker.send(b"\0")


def _message(frame: pb.SenderFrame) -> Message:
    return Message(frame.SerializeToString())
