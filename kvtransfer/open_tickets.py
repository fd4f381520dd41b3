"""The tickets that a receiver lets peers write into: which bytes are theirs, and which have come.

Every write and every change of what is open happens under one lock, so that a ticket, once revoked, is never written
again. Knows fences, slots and coverage. Does not know how bytes travel.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.errors import ProtocolError
from kvtransfer.transport import Arrived, BlockStore, Commit, Fence, Ticket, TicketId
from kvtransfer.wire import PIECE_BYTES, Piece, digest, is_piece, pieces
from protos import kvtransfer_pb2 as pb

MAX_COMPLETED = 4096
"""Completed fences remembered, so that a commit whose answer was lost can be answered again."""

Write = Callable[[memoryview], int]
"""Fills the bytes given and returns their checksum, or raises Refused."""
WriteBlocks = Callable[[Sequence[memoryview]], None]
"""Fills each of the blocks given, or raises Refused."""


class Refused(ProtocolError):
    """A frame that must not change anything; `nack` is the reason that its sender learns."""

    def __init__(self, nack: pb.NackReason, message: str) -> None:
        super().__init__(message)
        self.nack = nack


@dataclass(slots=True)
class _Filling:
    """One open ticket on its way to completion."""

    ticket: Ticket
    slots: tuple[int, ...]
    checksums: dict[tuple[int, int], int] = field(default_factory=dict)
    """Of the pieces that have come, by block and offset."""
    first_frame_ns: int | None = None

    def slot(self, piece: Piece) -> int:
        """The pool's block that `piece` belongs to."""
        ticket = self.ticket
        if not ticket.first_block <= piece.block < ticket.num_blocks:
            raise Refused(pb.NACK_REASON_MALFORMED, f"block {piece.block} is not the ticket's")
        if not is_piece(piece, ticket.block_bytes):
            raise Refused(pb.NACK_REASON_MALFORMED, f"{piece.size} bytes at {piece.offset} are no piece of a block")
        return self.slots[piece.block - ticket.first_block]

    def check_blocks(self, blocks: range) -> None:
        """Refuse what is not entirely the ticket's."""
        if not self.ticket.first_block <= blocks.start < blocks.stop <= self.ticket.num_blocks:
            message = f"blocks {blocks.start} to {blocks.stop} are not the ticket's"
            raise Refused(pb.NACK_REASON_MALFORMED, message)

    def missing(self) -> int:
        """Pieces that have not come."""
        per_block = sum(1 for _ in pieces(0, self.ticket.block_bytes))
        return len(self.slots) * per_block - len(self.checksums)


class OpenTickets:
    """What may be written now; every method is callable from any thread."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._open: dict[TicketId, _Filling] = {}
        self._completed: OrderedDict[Fence, None] = OrderedDict()
        self._fenced_writes = 0

    @property
    def fenced_writes(self) -> int:
        return self._fenced_writes

    def open(self, ticket: Ticket, slots: Sequence[int]) -> None:
        """Allow writes to `slots`; another attempt at the same ticket ends."""
        assert len(slots) == len(set(slots)) == ticket.num_blocks - ticket.first_block, "one slot per block to be sent"
        assert ticket.block_bytes == self._store.block_bytes, "a ticket's blocks are the pool's"
        with self._lock:
            self._completed.pop(ticket.fence, None)
            self._open[ticket.fence.ticket_id] = _Filling(ticket, tuple(slots))

    def revoke(self, ticket_id: TicketId) -> None:
        with self._lock:
            self._open.pop(ticket_id, None)

    def revoke_all(self) -> None:
        with self._lock:
            self._open.clear()

    def check(self, fence: Fence, frame: Sequence[Piece]) -> None:
        """Refuse a frame as a whole, before anything of it is written."""
        with self._lock:
            filling = self._filling(fence)
            for piece in frame:
                filling.slot(piece)

    def fill(self, fence: Fence, piece: Piece, write: Write) -> None:
        """Let `write` fill one piece; what it refuses counts as not come. Holds the lock while the bytes are copied."""
        with self._lock:
            filling = self._filling(fence)
            slot = filling.slot(piece)
            key = (piece.block, piece.offset)
            filling.checksums.pop(key, None)
            filling.first_frame_ns = filling.first_frame_ns or time.monotonic_ns()
            view = self._store.block_view(slot)[piece.offset : piece.offset + piece.size]
            filling.checksums[key] = write(view)

    def fill_blocks(self, fence: Fence, blocks: range, write: WriteBlocks) -> None:
        """Let `write` fill whole blocks; if it refuses, none of them has come. Holds the lock meanwhile."""
        with self._lock:
            filling = self._filling(fence)
            filling.check_blocks(blocks)
            first = filling.ticket.first_block
            keys = [(block, offset) for block in blocks for offset in range(0, self._store.block_bytes, PIECE_BYTES)]
            for key in keys:
                filling.checksums.pop(key, None)
            filling.first_frame_ns = filling.first_frame_ns or time.monotonic_ns()
            write([self._store.block_view(filling.slots[block - first]) for block in blocks])
            filling.checksums.update(dict.fromkeys(keys, 0))

    def check_blocks(self, fence: Fence, blocks: range) -> None:
        """Refuse a frame as a whole, before anything of it is written."""
        with self._lock:
            self._filling(fence).check_blocks(blocks)

    def complete(self, fence: Fence, commit: Commit, num_blocks: int, checked: int | None) -> Arrived | None:
        """Close a ticket that is entirely filled; None if that happened before. `checked` is the sender's digest."""
        with self._lock:
            if fence in self._completed:
                return None
            filling = self._filling(fence)
            _check_complete(filling, num_blocks, checked)
            del self._open[fence.ticket_id]
            self._completed[fence] = None
            if len(self._completed) > MAX_COMPLETED:
                self._completed.popitem(last=False)
        return _arrived(filling, commit)

    def _filling(self, fence: Fence) -> _Filling:
        filling = self._open.get(fence.ticket_id)
        if filling is None or filling.ticket.fence != fence:
            self._fenced_writes += 1
            why = "no such ticket is open" if filling is None else f"the open ticket is {filling.ticket.fence}"
            raise Refused(pb.NACK_REASON_STALE, why)
        return filling


def _check_complete(filling: _Filling, num_blocks: int, checked: int | None) -> None:
    if num_blocks != filling.ticket.num_blocks:
        raise Refused(pb.NACK_REASON_CORRUPT, f"{num_blocks} blocks committed of {filling.ticket.num_blocks}")
    if missing := filling.missing():
        raise Refused(pb.NACK_REASON_CORRUPT, f"{missing} pieces never came")
    if checked is not None and checked != digest(filling.checksums):
        raise Refused(pb.NACK_REASON_CORRUPT, "the digests differ")


def _arrived(filling: _Filling, commit: Commit) -> Arrived:
    now = time.monotonic_ns()
    return Arrived(
        ticket_id=filling.ticket.fence.ticket_id,
        commit=commit,
        size_bytes=len(filling.slots) * filling.ticket.block_bytes,
        first_frame_ns=filling.first_frame_ns or now,
        commit_ns=now,
    )
