"""Decode's side of KV transfer over ZeroMQ (tcp and ipc): a ROUTER socket on a thread of its own.

1. A message is a header part (SenderFrame) and, for `blocks`, a payload part: their pieces, one after the other.
2. The header is read into a fixed buffer, parsed and checked: number of parts, fence, pieces.
3. The payload is copied into the slots, under the lock that `revoke` takes, and checksummed on the way.
4. A commit closes a ticket that is complete, delivers it, and only then is answered.

Whatever a peer sends is answered with an Ack or a Nack, or dropped and counted; nothing of it ends the thread.
"""

import contextlib
import logging
import threading
from functools import partial
from pathlib import Path

import numpy as np
import zmq
from google.protobuf.message import DecodeError

from engine.errors import ConfigError
from kvtransfer.curve import Curve
from kvtransfer.endpoints import IPC
from kvtransfer.malloc import keep_freed_memory
from kvtransfer.open_tickets import Refused
from kvtransfer.pieces import FRAME_BYTES, MAX_PIECES
from kvtransfer.receiver import ANY_TOKEN, TicketReceiver
from kvtransfer.transport import BlockStore, Commit, Deliver, Endpoint, Fence
from kvtransfer.wire import MAX_HEADER_BYTES, fence_from_proto
from protos import kvtransfer_pb2 as pb

logger = logging.getLogger(__name__)

TRANSPORT = "zeromq"
MAX_WAITING = 8
"""Messages that libzmq holds per peer before the peer has to wait."""
KEEPALIVE_S = 15
ANY_HOST = ("tcp://*", "tcp://0.0.0.0:", "tcp://[::]:")
ENCRYPTION_BYTES = 256
"""Larger than what CURVE adds to a part."""
LINGER_MS = 100
"""For the last answers when closing."""


class ZeroMQReceiver(TicketReceiver):
    """Listens at `address`: tcp://host:port (port 0 picks one) or ipc://path."""

    def __init__(
        self,
        address: str,
        store: BlockStore,
        deliver: Deliver,
        curve: Curve | None = None,
        *,
        vocab_size: int = ANY_TOKEN,
    ) -> None:
        """With `curve`, only its peers get in; an ipc address is guarded by the permissions of its file."""
        super().__init__(store, deliver, vocab_size)
        curve = None if address.startswith(IPC) else curve
        self._header = bytearray(MAX_HEADER_BYTES)
        keep_freed_memory()
        self._context = zmq.Context()
        self._guard = curve.guard(self._context) if curve else None
        try:
            self._socket = listen(self._context, address, curve)
        except ConfigError:
            self._end_context()
            raise
        bound = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._endpoint = Endpoint(TRANSPORT, curve.address(bound) if curve else bound)
        self._thread = threading.Thread(target=self._run, name="kv-receiver", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.tickets.revoke_all()
        self._end_context()  # the thread's next call on the socket raises; it then closes the socket
        self._thread.join()
        if self._endpoint.address.startswith(IPC):
            Path(self._endpoint.address.removeprefix(IPC)).unlink(missing_ok=True)

    def _end_context(self) -> None:
        if self._guard:
            self._guard.stop()
        self._context.term()

    def _run(self) -> None:
        try:
            while True:
                self._serve_next()
        except zmq.ContextTerminated:
            logger.debug("no longer listening at %s", self._endpoint.address)
        finally:
            self._socket.close(linger=LINGER_MS)

    def _serve_next(self) -> None:
        peer = self._socket.recv()
        try:
            self._serve(peer)
        except zmq.ContextTerminated:
            raise
        except Exception:  # the thread's outermost frame: a fault in one delivery must not end all transfers
            logger.exception("a frame was not answered")
            self._drain()

    def _serve(self, peer: bytes) -> None:
        if (frame := self._read_header()) is None:
            self._malformed_frames += 1
            self._drain()
            return
        answer = self._answer(frame, partial(self._take, frame))
        self._drain()
        with contextlib.suppress(zmq.Again):  # the peer does not read its answers; it will stall
            self._socket.send_multipart((peer, answer), zmq.NOBLOCK)

    def _read_header(self) -> pb.SenderFrame | None:
        """None for what is not a header, or names no fence that an answer could carry."""
        if not self._more() or (size := self._socket.recv_into(self._header)) > MAX_HEADER_BYTES:
            return None
        try:
            frame = pb.SenderFrame.FromString(bytes(memoryview(self._header)[:size]))
        except DecodeError:
            return None
        return frame if frame.HasField("fence") else None

    def _take(self, frame: pb.SenderFrame) -> None:
        fence = fence_from_proto(frame.fence)
        match frame.WhichOneof("frame"):
            case "blocks":
                self._take_blocks(fence, frame.blocks)
            case "commit":
                self._take_commit(fence, frame.commit)
            case _:
                raise Refused(pb.NACK_REASON_MALFORMED, "neither blocks nor a commit")

    def _take_blocks(self, fence: Fence, blocks: pb.Blocks) -> None:
        if not 0 < (num_pieces := len(blocks.checksums)) <= MAX_PIECES:
            raise Refused(pb.NACK_REASON_MALFORMED, f"{num_pieces} pieces in one frame")
        if not self._more():
            raise Refused(pb.NACK_REASON_MALFORMED, "blocks without their bytes")
        payload = self._socket.recv(copy=False)  # a message's parts are all here once its first is: this never waits
        if payload.more:
            raise Refused(pb.NACK_REASON_MALFORMED, "more than one part of bytes")
        expected = np.array(blocks.checksums, np.uint64)
        data = np.frombuffer(payload.buffer, np.uint8)
        self.tickets.fill_pieces(fence, blocks.block, blocks.offset, expected, data)

    def _take_commit(self, fence: Fence, message: pb.Commit) -> None:
        if self._more():
            raise Refused(pb.NACK_REASON_MALFORMED, "a commit has no further parts")
        commit = Commit(message.first_token, message.traceparent)
        self.complete(fence, commit, message.num_blocks, message.digest)

    def _more(self) -> bool:
        return bool(self._socket.getsockopt(zmq.RCVMORE))

    def _drain(self) -> None:
        """Read past what is left of a message."""
        while self._more():
            self._socket.recv_into(bytearray())


def listen(context: zmq.Context[zmq.Socket[bytes]], address: str, curve: Curve | None) -> zmq.Socket[bytes]:
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
