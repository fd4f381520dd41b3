"""Decode's side of KV transfer through groups of torch.distributed: a ROUTER socket's thread, and one for each sender.

1. A sender says `join`: it gets a thread, on which the group is made (`group_peer`), unless there are too many groups.
2. Headers come over ZeroMQ and are handed to the sender's thread. It receives the payload into staging memory, never
   into the pool: a receive that was begun cannot be taken back, but a ticket can.
3. The payload is copied into the slots, under the lock that `revoke` takes, and checksummed on the way: what arrives
   for a ticket that was revoked meanwhile is dropped and counted. So `revoke` waits for one copy, never for a peer.
4. A commit closes a ticket that is complete, delivers it, and only then is answered.

A sender that was killed between two frames leaves a group in which nobody waits: once a second each sender is sent
nothing, which tells whether its connection is there. A group that is not used for `IDLE_S` is closed, and so is the
idle one longest unused when there are too many. Its sender is told, and makes another when it needs one.
"""

import contextlib
import errno
import logging
import socket
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import zmq
from google.protobuf.message import DecodeError

from engine.gloo import LOOPBACK
from kvtransfer.curve import Curve
from kvtransfer.group import CPU, Backend, GroupLimits, device_id, peer_host
from kvtransfer.group_peer import GroupPeer, refusal
from kvtransfer.nccl import MAKE_S
from kvtransfer.pieces import FRAME_BYTES, MAX_PIECES, Checksums, Cut, Pieces
from kvtransfer.receiver import ANY_TOKEN, TicketReceiver
from kvtransfer.router_socket import RouterSocket
from kvtransfer.transport import BlockStore, Commit, Deliver, Endpoint
from kvtransfer.wire import MAX_HEADER_BYTES, fence_from_proto
from kvtransfer.zeromq_channel import readable
from protos import kvtransfer_pb2 as pb

if TYPE_CHECKING:
    from kvtransfer.device_frames import DeviceFrames

logger = logging.getLogger(__name__)

MAX_GROUPS = 64
IDLE_S = 120.0
SWEEP_MS = 1000
NOTHING = pb.ReceiverFrame().SerializeToString()
"""Senders pass over it."""


class NcclReceiver(TicketReceiver):
    """Listens for headers at `address`, as a ZeroMQReceiver does; what is on one host stays on its loopback."""

    def __init__(
        self,
        backend: Backend,
        address: str,
        store: BlockStore,
        deliver: Deliver,
        curve: Curve | None = None,
        *,
        frames: "DeviceFrames | None" = None,
        vocab_size: int = ANY_TOKEN,
        max_groups: int = MAX_GROUPS,
        idle_s: float = IDLE_S,
        stall_limit_s: float = 10.0,
    ) -> None:
        """`frames` are received on a GPU, as NCCL has it; the other side must send them from one."""
        super().__init__(store, deliver, vocab_size)
        self._store = store
        self._on_device = frames
        self._backend: Backend = backend
        self._device = frames.device if frames else CPU
        self._host = peer_host(address) or LOOPBACK
        self._limits = GroupLimits(min(MAKE_S, stall_limit_s), stall_limit_s)
        self._max_groups = max_groups
        self._idle_s = idle_s
        self._cut = Cut(store.block_bytes)
        self._device_id = device_id(self._device)
        self._peers: dict[bytes, GroupPeer] = {}
        self._ending: list[GroupPeer] = []
        self._outbox: deque[tuple[bytes, bytes]] = deque()
        self._router = RouterSocket(address, curve)
        self._socket = self._router.socket
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else what nobody is there for is dropped without a word
        self._look_due_s = 0.0
        self._endpoint = Endpoint(backend, self._router.address)
        self._waker, self._wakened = socket.socketpair()
        self._wakened.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="kv-receiver-group", daemon=True)
        self._thread.start()

    @property
    def num_groups(self) -> int:
        return len(self._peers)

    def close(self) -> None:
        self.tickets.revoke_all()
        self._router.end()
        self._thread.join()
        self._waker.close()
        self._wakened.close()
        self._router.remove_file()

    # -- on the socket's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wakened, zmq.POLLIN)
        try:
            while True:
                poller.poll(SWEEP_MS)
                self._answer_peers()
                while readable(self._socket):
                    self._serve_next()
                self._sweep()
        except zmq.ContextTerminated:
            logger.debug("no longer listening at %s", self._endpoint.address)
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        for identity in list(self._peers):
            self._drop(identity, "the receiver was closed")
        self._router.close()  # senders hear of it from their connections
        for peer in self._ending:
            peer.join()

    def _serve_next(self) -> None:
        identity, header, *parts = self._socket.recv_multipart()
        try:
            self._serve(identity, header, parts)
        except zmq.ContextTerminated:
            raise
        except Exception:  # the thread's outermost frame: a fault with one sender must not end all transfers
            logger.exception("a frame was not taken")

    def _serve(self, identity: bytes, header: bytes, parts: list[bytes]) -> None:
        try:
            frame = pb.SenderFrame.FromString(header if len(header) <= MAX_HEADER_BYTES and not parts else b"")
        except DecodeError:
            frame = pb.SenderFrame()
        match frame.WhichOneof("frame"):
            case "join":
                self._join(identity, frame.join)
            case "stored":
                if (peer := self._peers.get(identity)) and not peer.take_stored(frame.stored):
                    self._drop(identity, "it says too much")
            case "leave":
                self._drop(identity, "it left")
            case "blocks" | "commit" if frame.HasField("fence"):
                self._hand_on(identity, frame)
            case _:
                self._malformed_frames += 1

    def _join(self, identity: bytes, join: pb.Join) -> None:
        if identity in self._peers:
            return
        if why := self._why_not(join):
            self._say(identity, refusal(why))
            return
        say = partial(self._say, identity)
        self._peers[identity] = GroupPeer(self._backend, self._host, self._limits, self, say, self._device)

    def _why_not(self, join: pb.Join) -> str | None:
        if join.backend != self._backend:
            return f"groups here are of {self._backend}"
        if self._device_id and join.device == self._device_id:
            return "both sides use the same GPU, and NCCL has no group of two on one"
        if len(self._peers) >= self._max_groups and not self._make_room():
            return f"it is in {self._max_groups} groups, all of them in use"
        return None

    def _make_room(self) -> bool:
        idle = [identity for identity, peer in self._peers.items() if peer.idle]
        if oldest := min(idle, key=lambda identity: self._peers[identity].last_used_s, default=None):
            self._drop(oldest, "its group made room for another")
        return oldest is not None

    def _hand_on(self, identity: bytes, frame: pb.SenderFrame) -> None:
        peer = self._peers.get(identity)
        if peer is None or peer.ended:
            self._say(identity, refusal("there is no such group any more"))
        elif not peer.take(frame):
            self._drop(identity, "more frames than there is credit for")

    def _drop(self, identity: bytes, why: str) -> None:
        if peer := self._peers.pop(identity, None):
            peer.close(why)
            self._ending.append(peer)

    def _sweep(self) -> None:
        """Close what nobody uses, or whose sender is gone, and forget what has ended."""
        now_s = time.monotonic()
        looks = now_s >= self._look_due_s
        for identity, peer in list(self._peers.items()):
            if peer.ended or (peer.idle and now_s - peer.last_used_s > self._idle_s):
                self._drop(identity, f"nobody used its group for {self._idle_s:g} s")
            elif looks and not self._send(identity, NOTHING):
                self._drop(identity, "its sender is gone")
        if looks:
            self._look_due_s = now_s + SWEEP_MS / 1000
        self._ending = [peer for peer in self._ending if not peer.ended]

    def _answer_peers(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakened.recv(4096):
                pass
        while self._outbox:
            self._send(*self._outbox.popleft())

    def _send(self, identity: bytes, data: bytes) -> bool:
        """Whether the sender is there."""
        try:
            self._socket.send_multipart((identity, data), zmq.NOBLOCK)
        except zmq.Again:
            pass  # it does not read its answers; it will stall
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return False
        return True

    # -- on the peers' threads ---------------------------------------------------------------------------------------

    def payload_bytes(self, frame: pb.SenderFrame) -> int | None:
        """What of the frame comes through the group; None if that cannot be."""
        if not frame.HasField("blocks"):
            return 0
        if not 0 < (count := len(frame.blocks.checksums)) <= MAX_PIECES:
            return None
        size_bytes = self._cut.size_bytes(frame.blocks.offset, count)
        return size_bytes if size_bytes is not None and size_bytes <= FRAME_BYTES else None

    def answer_frame(self, frame: pb.SenderFrame, payload: torch.Tensor | None) -> bytes:
        """Do what it asks; what the sender is told."""
        return self._answer(frame, partial(self._take, frame, payload))

    def _take(self, frame: pb.SenderFrame, payload: torch.Tensor | None) -> None:
        fence = fence_from_proto(frame.fence)
        if payload is not None:
            blocks, scatter = frame.blocks, partial(self._scatter, payload)
            expected = np.array(blocks.checksums, np.uint64)
            self.tickets.fill_pieces(fence, blocks.block, blocks.offset, expected, len(payload), scatter)
            return
        commit = Commit(frame.commit.first_token, frame.commit.traceparent)
        self.complete(fence, commit, frame.commit.num_blocks, frame.commit.digest)

    def _scatter(self, payload: torch.Tensor, pieces: Pieces, some: range) -> Checksums:
        if self._on_device:
            return self._on_device.scatter(pieces, some, payload)
        return self._store.scatter(pieces, some, payload.numpy())

    def _say(self, identity: bytes, data: bytes) -> None:
        """To a sender, from any thread."""
        self._outbox.append((identity, data))
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")
