"""Prefill's side of KV transfer over ZeroMQ (tcp and ipc).

1. `send` cuts blocks into pieces and hands frames of them to the link of the ticket's address.
2. The link keeps a bounded number of bytes under way. When it is a frame's turn, its pieces are copied into a buffer
   and checksummed on the way; from then on nobody reads the blocks for it.
3. Every frame is answered. Its receiver has then read all of it, and its buffer is used again.
4. `commit` sends the digest of all that was sent; its answer ends the ticket.

Knows tickets and what was sent for each. Does not know sockets: that is `link`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count

import numpy as np
import zmq

from kvtransfer.curve import Curve
from kvtransfer.endpoints import choose
from kvtransfer.frame_buffers import FrameBuffers, Payload
from kvtransfer.link import Channel, Frame, Limits, Link, Message
from kvtransfer.links import Links
from kvtransfer.pieces import FRAME_BYTES, Checksums, Cut, Pieces, digest
from kvtransfer.transport import BlockStore, Commit, Ticket
from kvtransfer.wire import check_span, fence_to_proto
from kvtransfer.zeromq_channel import ZeroMQChannel
from protos import kvtransfer_pb2 as pb

TRANSPORT = "zeromq"
MAX_TICKETS = 1024
"""Tickets remembered; the one longest unused is given up first, as it is most likely abandoned."""


class ZeroMQSender:
    """Sends blocks of `store`; belongs to the event loop it is first used on."""

    transport = TRANSPORT

    def __init__(
        self,
        store: BlockStore,
        curve: Curve | None = None,
        *,
        stall_limit_s: float = 10.0,
        max_inflight_bytes: int = 16 << 20,
        max_links: int = 64,
    ) -> None:
        self._store = store
        self._cut = Cut(store.block_bytes)
        self._curve = curve
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._links = Links(self._connect, Limits(stall_limit_s, max_inflight_bytes), max_links)
        self._buffers = FrameBuffers(max(1, max_inflight_bytes // FRAME_BYTES))
        self._numbers = count()
        self._tickets: OrderedDict[Ticket, Checksums] = OrderedDict()

    @property
    def bytes_per_s(self) -> float:
        return self._links.speed.bytes_per_s

    @property
    def peer_bytes_per_s(self) -> Mapping[str, float]:
        """Speed of each link there is, by the peer's address."""
        return self._links.bytes_per_s

    async def send(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> None:
        check_span(ticket, first, len(source_blocks), self._store.block_bytes)
        await self._link(ticket).run(self._frames(ticket, first, source_blocks))

    async def commit(self, ticket: Ticket, commit: Commit) -> None:
        message = pb.Commit(
            num_blocks=ticket.num_blocks,
            digest=digest(self._checksums(ticket), commit.first_token),
            first_token=commit.first_token,
            traceparent=commit.traceparent,
        )
        number = next(self._numbers)
        header = pb.SenderFrame(fence=fence_to_proto(ticket.fence), number=number, commit=message)
        await self._link(ticket).run([Frame(ticket.fence, number, lambda: Message(header.SerializeToString()))])
        self._tickets.pop(ticket, None)

    async def aclose(self) -> None:
        self._links.close()
        await asyncio.to_thread(self._context.term)

    def _connect(self, address: str) -> Channel:
        return ZeroMQChannel(self._context, self._curve, address)

    def _frames(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> Iterator[Frame]:
        blocks = np.array(source_blocks, np.int64)
        assert ((blocks >= 0) & (blocks < self._store.num_blocks)).all(), "there are such blocks"
        pieces = Pieces(self._cut, blocks)
        for some in pieces.frames():
            number = next(self._numbers)
            message = partial(self._gather, ticket, number, first, pieces, some)
            yield Frame(ticket.fence, number, message, pieces.size_bytes(some))

    def _gather(self, ticket: Ticket, number: int, first: int, pieces: Pieces, some: range) -> Message:
        """Copy and checksum some of the pieces, the first of which begins the ticket's block `first`."""
        payload, checksums = self._copy_out(pieces, some)
        start = (first - ticket.first_block) * self._cut.per_block + some.start
        self._checksums(ticket)[start : start + len(some)] = checksums
        block, offset = self._cut.place(some.start)
        blocks = pb.Blocks(block=first + block, offset=offset, checksums=checksums.tolist())
        header = pb.SenderFrame(fence=fence_to_proto(ticket.fence), number=number, blocks=blocks)
        return Message(header.SerializeToString(), payload, pieces.size_bytes(some))

    def _copy_out(self, pieces: Pieces, some: range) -> tuple[Payload, Checksums]:
        buffer = self._buffers.take(pieces.size_bytes(some))
        return buffer, self._store.gather(pieces, some, buffer.bytes)

    def _checksums(self, ticket: Ticket) -> Checksums:
        """Of the ticket's pieces, as they were sent last."""
        if (checksums := self._tickets.get(ticket)) is None:
            num_pieces = (ticket.num_blocks - ticket.first_block) * self._cut.per_block
            checksums = self._tickets[ticket] = np.zeros(num_pieces, np.uint64)
        self._tickets.move_to_end(ticket)
        if len(self._tickets) > MAX_TICKETS:
            self._tickets.popitem(last=False)
        return checksums

    def _link(self, ticket: Ticket) -> Link:
        return self._links.to(choose(ticket.endpoints, (self.transport,)).address)
