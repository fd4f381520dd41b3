"""A ZeroMQ DEALER socket to one receiver: the channel of a link over tcp or ipc."""

import contextlib
from typing import cast

import zmq
from zmq.utils.monitor import recv_monitor_message

from engine.errors import TransferFailed
from kvtransfer.curve import Curve, secure
from kvtransfer.frame_buffers import FrameBuffer
from kvtransfer.link import Message
from kvtransfer.transport import Unreachable
from kvtransfer.wire import MAX_HEADER_BYTES

KEEPALIVE_S = 15
SEND_BUFFER_BYTES = 512 << 10
"""Unacknowledged bytes in the kernel, within a host. Left to itself it keeps 4 MiB, which leave the caches before they
are read: a fourth slower. Between hosts so little would not fill a long line."""
WITHIN_HOST = ("ipc://", "tcp://127.", "tcp://localhost:", "tcp://[::1]:")
LAST, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
"""Flags of a message's parts; as plain integers, for an enum's `|` takes as long as sending does."""
ENDINGS = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
READABLE, EVENTS = int(zmq.POLLIN), int(zmq.EVENTS)


class ZeroMQChannel:
    """Payloads are handed to libzmq without a copy."""

    reads_blocks = False

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], curve: Curve | None, address: str) -> None:
        self._address = address.partition("#")[0]
        self._socket, self._monitor = _connect(context, curve, address)
        self.filenos = (self._socket.FD, self._monitor.FD)

    def send(self, message: Message) -> None:
        try:
            if message.payload is None:
                self._socket.send(message.header, LAST)
            else:
                assert isinstance(message.payload, FrameBuffer), "libzmq reads the host's memory"
                self._socket.send(message.header, MORE)
                self._socket.send(message.payload.part(message.payload_bytes), LAST, copy=False)
        except zmq.ZMQError as error:
            raise TransferFailed(self.lost() or f"cannot send to {self._address}: {error.strerror}") from error

    def receive(self) -> bytes | None:
        return self._socket.recv_multipart(LAST)[0] if readable(self._socket) else None

    def lost(self) -> str | None:
        """The events asked for are those of a connection that is lost, or was never let in."""
        if not readable(self._monitor):
            return None
        event = recv_monitor_message(self._monitor)["event"]
        how = "was lost" if event == zmq.EVENT_DISCONNECTED else "was refused: its receiver does not know this key"
        return f"the connection to {self._address} {how}"

    def close(self) -> None:
        self._close(linger_ms=0)

    def leave(self, message: Message, linger_ms: int) -> None:
        """Close, but say something before, if that does not take longer."""
        with contextlib.suppress(TransferFailed):
            self.send(message)
        self._close(linger_ms)

    def _close(self, linger_ms: int) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=linger_ms)


def _connect(
    context: zmq.Context[zmq.Socket[bytes]], curve: Curve | None, address: str
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """The socket, and where it tells of a lost connection."""
    socket = context.socket(zmq.DEALER)
    try:
        address = secure(socket, address, curve)
    except Unreachable:
        socket.close(linger=0)
        raise
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)  # credit is the limit
    if address.startswith(WITHIN_HOST):
        socket.setsockopt(zmq.SNDBUF, SEND_BUFFER_BYTES)
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * MAX_HEADER_BYTES)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
    socket.setsockopt(zmq.IPV6, "[" in address)
    monitor = socket.get_monitor_socket(ENDINGS)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.disable_monitor()
        monitor.close(linger=0)
        socket.close(linger=0)
        raise TransferFailed(f"cannot connect to {address}: {error.strerror}") from error
    return socket, monitor


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether there is a message to receive."""
    return bool(cast("int", socket.getsockopt(EVENTS)) & READABLE)
