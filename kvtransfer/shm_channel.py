"""A Unix socket to a receiver on the same host: the channel of a link through shared memory.

Sockets are in the abstract namespace and keep messages apart (SOCK_SEQPACKET). An address names the kernel's boot and
the network namespace besides the socket, since that is where such a name means anything; whoever connects and whoever
listens check that the other is the same user.
"""

import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from google.protobuf.message import DecodeError

from engine.errors import TransferFailed
from engine.shared_memory import SharedMemory
from kvtransfer.cuda_ipc import DeviceMemory
from kvtransfer.endpoints import shm_name
from kvtransfer.link import Message
from kvtransfer.transport import Unreachable
from kvtransfer.wire import MAX_HEADER_BYTES
from protos import kvtransfer_pb2 as pb

CREDENTIALS = struct.Struct("iII")
"""Of SO_PEERCRED: process, user, group."""


class ShmChannel:
    """Hands over the memory, or CUDA's handle to it, then carries frames; `on_refused` is told why the receiver cannot
    use the memory."""

    reads_blocks = True

    def __init__(
        self,
        address: str,
        memory: SharedMemory | DeviceMemory,
        block_bytes: int,
        on_refused: Callable[[str], None],
    ) -> None:
        self._address = address
        self._on_refused = on_refused
        self._lost: str | None = None
        self._attached = False
        self._unsent: deque[bytes] = deque()
        self._socket = _connect(address)
        self.filenos = (self._socket.fileno(),)
        attach = pb.Attach(size_bytes=memory.size_bytes, block_bytes=block_bytes)
        try:
            if isinstance(memory, DeviceMemory):
                attach.cuda.CopyFrom(memory.lend())
            descriptors = [] if isinstance(memory, DeviceMemory) else [memory.fd]
            socket.send_fds(self._socket, [pb.SenderFrame(attach=attach).SerializeToString()], descriptors)
        except (OSError, TransferFailed) as error:
            self._socket.close()
            why = error.message if isinstance(error, TransferFailed) else error.strerror
            raise Unreachable(f"{address} does not take this pool's memory: {why}") from error

    def send(self, message: Message) -> None:
        self._unsent.append(message.header)
        self._flush()

    def receive(self) -> bytes | None:
        if self._lost:
            return None
        try:
            answer = self._socket.recv(2 * MAX_HEADER_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            answer, self._lost = b"", f"the connection to {self._address} was lost: {error.strerror}"
        if not answer:
            self._lost = self._lost or f"the connection to {self._address} was lost"
            return None
        if not self._attached:
            return self.receive() if self._take_attached(answer) else None
        self._flush()  # who answers has read a frame: there is room for another
        return answer

    def lost(self) -> str | None:
        return self._lost

    def close(self) -> None:
        self._socket.close()

    def _take_attached(self, answer: bytes) -> bool:
        """The first answer says whether the memory could be mapped."""
        try:
            frame = pb.ReceiverFrame.FromString(answer)
        except DecodeError:
            self._lost = f"{self._address} answers what is no frame"
            return False
        self._attached = frame.HasField("ack")
        if not self._attached:
            self._lost = f"{self._address} refused this pool's memory: {frame.nack.message}"
            self._on_refused(self._lost)
        return self._attached

    def _flush(self) -> None:
        try:
            while self._unsent:
                self._socket.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            raise TransferFailed(f"cannot send to {self._address}: {error.strerror}") from error


def same_user(peer: socket.socket) -> bool:
    """Whether the process at the other end runs as this one's user."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return bool(CREDENTIALS.unpack(credentials)[1] == os.geteuid())


def _connect(address: str) -> socket.socket:
    """Never waits: a listener that is there takes connections at once."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setblocking(False)
    try:
        connection.connect(shm_name(address))
        if same_user(connection):
            return connection
        reason = "it belongs to another user"
    except OSError as error:
        reason = error.strerror or str(error)
    connection.close()
    raise Unreachable(f"cannot connect to {address}: {reason}")
