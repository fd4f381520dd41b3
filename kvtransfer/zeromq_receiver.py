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

import numpy as np
import zmq
from google.protobuf.message import DecodeError

from kvtransfer.curve import Curve
from kvtransfer.malloc import keep_freed_memory
from kvtransfer.open_tickets import Refused
from kvtransfer.pieces import MAX_PIECES
from kvtransfer.receiver import ANY_TOKEN, TicketReceiver
from kvtransfer.router_socket import RouterSocket
from kvtransfer.transport import BlockStore, Commit, Deliver, Endpoint, Fence
from kvtransfer.wire import MAX_HEADER_BYTES, fence_from_proto
from protos import kvtransfer_pb2 as pb

logger = logging.getLogger(__name__)

TRANSPORT = "zeromq"


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
        self._store = store
        self._header = bytearray(MAX_HEADER_BYTES)
        keep_freed_memory()
        self._router = RouterSocket(address, curve)
        self._socket = self._router.socket
        self._endpoint = Endpoint(TRANSPORT, self._router.address)
        self._thread = threading.Thread(target=self._run, name="kv-receiver", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.tickets.revoke_all()
        self._router.end()
        self._thread.join()
        self._router.remove_file()

    def _run(self) -> None:
        try:
            while True:
                self._serve_next()
        except zmq.ContextTerminated:
            logger.debug("no longer listening at %s", self._endpoint.address)
        finally:
            self._router.close()

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
        scatter = partial(self._store.scatter, frame=data)
        self.tickets.fill_pieces(fence, blocks.block, blocks.offset, expected, len(data), scatter)

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
