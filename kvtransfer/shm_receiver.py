"""Decode's side of KV transfer from senders on the same host: a thread that copies out of their pools.

1. A sender connects and hands over the descriptor of its pool, or CUDA's handle; what can be mapped safely is mapped.
2. A frame names source blocks. They are copied, a few at once, under the lock that `revoke` takes, if the fence is the
   open ticket's; afterwards the connection must still be there, or they count as not come (see `shm`).
3. A commit closes a ticket that is complete, delivers it, and only then is answered.

Whatever a peer sends is answered with an Ack or a Nack, or dropped and counted; nothing of it ends the thread.
"""

import contextlib
import logging
import secrets
import selectors
import socket
import threading
from collections.abc import Sequence
from functools import partial

import numpy as np
from google.protobuf.message import DecodeError

from engine.errors import ConfigError
from kvtransfer.device_store import DeviceStore
from kvtransfer.endpoints import shm_address, shm_name
from kvtransfer.host_store import HostStore
from kvtransfer.open_tickets import Refused
from kvtransfer.receiver import ANY_TOKEN, TicketReceiver
from kvtransfer.shm import way_of
from kvtransfer.shm_channel import same_user
from kvtransfer.shm_peer import Peer, map_into
from kvtransfer.transport import Commit, Deliver, Endpoint, Fence
from kvtransfer.wire import fence_from_proto
from protos import kvtransfer_pb2 as pb

logger = logging.getLogger(__name__)

MAX_PEERS = 256


class ShmReceiver(TicketReceiver):
    """Listens on a socket of its own making, under a name nobody can guess."""

    def __init__(self, store: HostStore | DeviceStore, deliver: Deliver, *, vocab_size: int = ANY_TOKEN) -> None:
        super().__init__(store, deliver, vocab_size)
        self._map = map_into(store)
        self._way = way_of(store)
        self._block_bytes = store.block_bytes
        self._endpoint = Endpoint(self._way.transport, shm_address(f"tandem-kv-{secrets.token_hex(16)}"))
        self._listener = _listen(self._endpoint.address)
        self._waker, self._wakened = socket.socketpair()
        self._peers: set[Peer] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wakened, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="kv-receiver-shm", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.tickets.revoke_all()
        self._waker.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._serve_ready():
                pass
        finally:
            for peer in list(self._peers):
                self._drop(peer)
            self._listener.close()
            self._wakened.close()
            self._selector.close()

    def _serve_ready(self) -> bool:
        """Whether to go on. One frame of each peer in turn, so that none waits for long."""
        for key, _ in self._selector.select():
            if key.fileobj is self._wakened:
                return False
            try:
                if key.data is None:
                    self._accept()
                else:
                    self._serve(key.data)
            except Exception:  # the thread's outermost frame: a fault in one delivery must not end all transfers
                logger.exception("a frame was not answered")
        return True

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if len(self._peers) >= MAX_PEERS or not same_user(connection):
            connection.close()
            return
        peer = Peer(connection, self._map)
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _drop(self, peer: Peer) -> None:
        self._peers.discard(peer)
        self._selector.unregister(peer.connection)
        peer.close()

    def _serve(self, peer: Peer) -> None:
        if (message := peer.receive()) is None:
            self._drop(peer)
            return
        data, descriptors = message
        with contextlib.ExitStack() as stack:
            for descriptor in descriptors:
                stack.enter_context(descriptor)
            try:
                frame = pb.SenderFrame.FromString(data)
            except DecodeError:
                frame = pb.SenderFrame()
            if not (frame.HasField("fence") or frame.HasField("attach")):
                self._malformed_frames += 1
                return
            filenos = [descriptor.fileno for descriptor in descriptors]
            answer = self._answer(frame, partial(self._take, peer, frame, filenos))
        peer.answer(answer)

    def _take(self, peer: Peer, frame: pb.SenderFrame, descriptors: Sequence[int]) -> None:
        match frame.WhichOneof("frame"):
            case "attach":
                peer.attach(frame.attach, descriptors, self._block_bytes)
            case "copy":
                self._copy(peer, fence_from_proto(frame.fence), frame.copy)
            case "commit":
                self._take_commit(fence_from_proto(frame.fence), frame.commit)
            case _:
                raise Refused(pb.NACK_REASON_MALFORMED, "neither blocks to copy nor a commit")

    def _copy(self, peer: Peer, fence: Fence, copy: pb.Copy) -> None:
        if not 0 < len(copy.source_blocks) <= self._way.max_sources(self._block_bytes):
            raise Refused(pb.NACK_REASON_MALFORMED, f"{len(copy.source_blocks)} blocks in one frame")
        sources = np.array(copy.source_blocks, np.int64)
        peer.check(sources)
        self.tickets.check_blocks(fence, range(copy.first, copy.first + len(sources)))
        at_once = max(1, self._way.locked_bytes // self._block_bytes)
        for i in range(0, len(sources), at_once):
            some = sources[i : i + at_once]
            blocks = range(copy.first + i, copy.first + i + len(some))
            self.tickets.fill_blocks(fence, blocks, partial(peer.copy, some))

    def _take_commit(self, fence: Fence, message: pb.Commit) -> None:
        commit = Commit(message.first_token, message.traceparent)
        self.complete(fence, commit, message.num_blocks, None)


def _listen(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(shm_name(address))
        listener.listen(MAX_PEERS)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen for KV at {address}: {error.strerror}") from error
    listener.setblocking(False)
    return listener
