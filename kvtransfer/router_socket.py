"""A ROUTER socket that senders of KV connect to, with a ZeroMQ context of its own; under CURVE, with its guard.

Made and ended by its owner's thread; in between it belongs to the thread that serves it.
"""

from pathlib import Path

import zmq

from engine.errors import ConfigError
from kvtransfer.curve import Curve
from kvtransfer.endpoints import IPC
from kvtransfer.pieces import FRAME_BYTES

MAX_WAITING = 8
"""Messages that libzmq holds per peer before the peer has to wait."""
KEEPALIVE_S = 15
ANY_HOST = ("tcp://*", "tcp://0.0.0.0:", "tcp://[::]:")
ENCRYPTION_BYTES = 256
"""Larger than what CURVE adds to a part."""
LINGER_MS = 100
"""For the last answers when closing."""


class RouterSocket:
    """Listens at `address`: tcp://host:port (port 0 picks one) or ipc://path."""

    def __init__(self, address: str, curve: Curve | None) -> None:
        """With `curve`, only its peers get in; an ipc address is guarded by the permissions of its file. Raises
        ConfigError."""
        curve = None if address.startswith(IPC) else curve
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._guard = curve.guard(self._context) if curve else None
        try:
            self.socket = _listen(self._context, address, curve)
        except ConfigError:
            self.end()
            raise
        bound = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.address = curve.address(bound) if curve else bound
        """For peers, with the key by which they know this one."""

    def end(self) -> None:
        """Whoever serves the socket gets ContextTerminated from its next call; return when that one has closed it."""
        if self._guard:
            self._guard.stop()
        self._context.term()

    def close(self) -> None:
        """On the thread that serves it: give the last answers a moment, and close."""
        self.socket.close(linger=LINGER_MS)

    def remove_file(self) -> None:
        """Of an ipc address, once nobody listens there."""
        if self.address.startswith(IPC):
            Path(self.address.removeprefix(IPC)).unlink(missing_ok=True)


def _listen(context: zmq.Context[zmq.Socket[bytes]], address: str, curve: Curve | None) -> zmq.Socket[bytes]:
    """A ROUTER socket for senders. Raises ConfigError."""
    if address.startswith(ANY_HOST):
        raise ConfigError(f"peers cannot connect to {address}: name the address under which they reach this host")
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES)
    if curve:
        curve.listen(socket)
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES + ENCRYPTION_BYTES)
    socket.setsockopt(zmq.RCVHWM, MAX_WAITING)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
    socket.setsockopt(zmq.IPV6, "[" in address)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise ConfigError(f"cannot listen for KV at {address}: {error.strerror}") from error
    return socket
