"""Prefill's side of KV transfer over ZeroMQ (tcp and ipc).

1. `send` cuts blocks into pieces, checksums them and hands them, without a copy, to the link of the ticket's address.
2. The link keeps a bounded number of bytes under way; every frame is answered.
3. `commit` sends the digest of all that was sent; its answer ends the ticket.

Knows tickets and what was sent for each. Does not know sockets: that is `link`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import zmq

from kvtransfer.endpoints import choose
from kvtransfer.link import Frame, Limits, Link
from kvtransfer.links import Links
from kvtransfer.transport import BlockStore, Commit, Fence, Ticket
from kvtransfer.wire import FRAME_BYTES, MAX_PIECES, Piece, check_span, checksum, digest, fence_to_proto, pieces
from kvtransfer.zeromq_channel import ZeroMQChannel
from protos import kvtransfer_pb2 as pb

TRANSPORT = "zeromq"
MAX_TICKETS = 1024
"""Tickets remembered; the one longest unused is given up first, as it is most likely abandoned."""


@dataclass(slots=True)
class _Progress:
    """What was sent for one fence."""

    num_frames: int = 0
    checksums: dict[tuple[int, int], int] = field(default_factory=dict)

    def next_number(self) -> int:
        self.num_frames += 1
        return self.num_frames - 1


class ZeroMQSender:
    """Sends blocks of `store`; belongs to the event loop it is first used on."""

    def __init__(
        self, store: BlockStore, *, stall_limit_s: float = 10.0, max_inflight_bytes: int = 16 << 20, max_links: int = 64
    ) -> None:
        self._store = store
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._links = Links(partial(ZeroMQChannel, self._context), Limits(stall_limit_s, max_inflight_bytes), max_links)
        self._tickets: OrderedDict[Fence, _Progress] = OrderedDict()

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
        progress = self._progress(ticket.fence)
        message = pb.Commit(
            num_blocks=ticket.num_blocks,
            digest=digest(progress.checksums),
            first_token=commit.first_token,
            traceparent=commit.traceparent,
        )
        number = progress.next_number()
        header = pb.SenderFrame(fence=fence_to_proto(ticket.fence), number=number, commit=message)
        await self._link(ticket).run([Frame(ticket.fence, number, header.SerializeToString())])
        self._tickets.pop(ticket.fence, None)

    async def aclose(self) -> None:
        self._links.close()
        await asyncio.to_thread(self._context.term)

    def _frames(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> Iterator[Frame]:
        """Cut and checksum block by block, as the link asks for more."""
        progress = self._progress(ticket.fence)
        batch: list[tuple[Piece, memoryview]] = []
        size_bytes = 0
        for block, source_block in enumerate(source_blocks, first):
            view = self._store.block_view(source_block)
            for piece in pieces(block, ticket.block_bytes):
                if batch and (size_bytes + piece.size > FRAME_BYTES or len(batch) == MAX_PIECES):
                    yield _frame(ticket.fence, progress, batch)
                    batch, size_bytes = [], 0
                batch.append((piece, view[piece.offset : piece.offset + piece.size]))
                size_bytes += piece.size
        if batch:
            yield _frame(ticket.fence, progress, batch)

    def _progress(self, fence: Fence) -> _Progress:
        progress = self._tickets.setdefault(fence, _Progress())
        self._tickets.move_to_end(fence)
        if len(self._tickets) > MAX_TICKETS:
            self._tickets.popitem(last=False)
        return progress

    def _link(self, ticket: Ticket) -> Link:
        return self._links.to(choose(ticket.endpoints, (TRANSPORT,)).address)


def _frame(fence: Fence, progress: _Progress, batch: Sequence[tuple[Piece, memoryview]]) -> Frame:
    segments = []
    for piece, data in batch:
        found = progress.checksums[piece.block, piece.offset] = checksum(data)
        segments.append(pb.Segment(block=piece.block, offset=piece.offset, size=piece.size, checksum=found))
    number = progress.next_number()
    header = pb.SenderFrame(fence=fence_to_proto(fence), number=number, blocks=pb.Blocks(segments=segments))
    parts = [data for _, data in batch]
    return Frame(fence, number, header.SerializeToString(), parts, sum(len(part) for part in parts))
