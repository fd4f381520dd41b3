"""The tickets that a receiver lets peers write into: which bytes are theirs, and which have come.

Every write and every change of what is open happens under one lock, so that a ticket, once revoked, is never written
again. Knows fences, slots and coverage. Does not know how bytes travel.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import ProtocolError
from kvtransfer.pieces import FRAME_BYTES, Checksums, Cut, Numbers, Pieces, digest
from kvtransfer.transport import Arrived, Commit, Fence, Ticket, TicketId
from protos import kvtransfer_pb2 as pb

MAX_COMPLETED = 4096
"""Completed fences remembered, so that a commit whose answer was lost can be answered again."""

Write = Callable[[Numbers], None]
"""Fills each of the pool's blocks given, or raises Refused."""
Scatter = Callable[[Pieces, range], Checksums]
"""Copies what has come to where some pieces belong in the pool."""


class Refused(ProtocolError):
    """A frame that must not change anything; `nack` is the reason that its sender learns."""

    def __init__(self, nack: pb.NackReason, message: str) -> None:
        super().__init__(message)
        self.nack = nack


@dataclass(slots=True)
class _Filling:
    """One open ticket on its way to completion; its pieces are numbered from `first_block` on."""

    ticket: Ticket
    cut: Cut
    slots: Numbers
    pieces: Pieces
    came: npt.NDArray[np.bool_]
    """Which pieces have."""
    checksums: Checksums
    """Of the pieces that have come; 0 where nobody computes any."""
    first_frame_ns: int | None = None

    @classmethod
    def start(cls, ticket: Ticket, slots: Sequence[int]) -> "_Filling":
        cut, numbers = Cut(ticket.block_bytes), np.array(slots, np.int64)
        pieces = Pieces(cut, numbers)
        return cls(ticket, cut, numbers, pieces, np.zeros(len(pieces), np.bool_), np.zeros(len(pieces), np.uint64))

    def find(self, block: int, offset: int, count: int) -> range:
        """Consecutive ones; refuses what is not entirely the ticket's."""
        first = self.cut.number(block - self.ticket.first_block, offset)
        if first is None:
            raise Refused(pb.NACK_REASON_MALFORMED, f"no piece of a block begins at {offset}")
        if not 0 <= first < first + count <= len(self.came):
            raise Refused(pb.NACK_REASON_MALFORMED, f"{count} pieces from block {block} on are not the ticket's")
        return range(first, first + count)

    def check_blocks(self, blocks: range) -> None:
        """Refuse what is not entirely the ticket's."""
        if not self.ticket.first_block <= blocks.start < blocks.stop <= self.ticket.num_blocks:
            message = f"blocks {blocks.start} to {blocks.stop} are not the ticket's"
            raise Refused(pb.NACK_REASON_MALFORMED, message)

    def begin(self) -> None:
        """Something is written for the first time, or again."""
        self.first_frame_ns = self.first_frame_ns or time.monotonic_ns()

    def missing(self) -> int:
        """Pieces that have not come."""
        return len(self.came) - int(np.count_nonzero(self.came))


class OpenTickets:
    """What may be written now; every method is callable from any thread."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._lock = threading.Lock()
        self._open: dict[TicketId, _Filling] = {}
        self._completed: OrderedDict[Fence, None] = OrderedDict()
        self._fenced_writes = 0

    @property
    def fenced_writes(self) -> int:
        return self._fenced_writes

    def ids(self) -> list[TicketId]:
        """Of those that may be written to now."""
        with self._lock:
            return list(self._open)

    def open(self, ticket: Ticket, slots: Sequence[int]) -> None:
        """Allow writes to `slots`, of which nothing has come yet; another attempt at the same ticket ends."""
        assert len(slots) == len(set(slots)) == ticket.num_blocks - ticket.first_block, "one slot per block to be sent"
        assert ticket.block_bytes == self._block_bytes, "a ticket's blocks are the pool's"
        with self._lock:
            self._completed.pop(ticket.fence, None)
            self._open[ticket.fence.ticket_id] = _Filling.start(ticket, slots)

    def revoke(self, ticket_id: TicketId) -> None:
        with self._lock:
            self._open.pop(ticket_id, None)

    def revoke_all(self) -> None:
        with self._lock:
            self._open.clear()

    def fill_pieces(
        self, fence: Fence, block: int, offset: int, expected: Checksums, size_bytes: int, scatter: Scatter
    ) -> None:
        """Have `scatter` copy consecutive pieces, the first of which begins there, of which `size_bytes` have come.

        What is not as `expected` counts as not come. Holds the lock while the bytes are copied.
        """
        with self._lock:
            filling = self._filling(fence)
            pieces = filling.find(block, offset, len(expected))
            if size_bytes != (needed := filling.pieces.size_bytes(pieces)) or size_bytes > FRAME_BYTES:
                raise Refused(pb.NACK_REASON_MALFORMED, f"{size_bytes} bytes for pieces of {needed}")
            filling.begin()
            some = slice(pieces.start, pieces.stop)
            filling.came[some] = False
            filling.checksums[some] = found = scatter(filling.pieces, pieces)
            filling.came[some] = agree = found == expected
        if not agree.all():
            at = int(np.argmin(agree))
            why = f"checksum {int(found[at]):016x}, the sender's is {int(expected[at]):016x}"
            raise Refused(pb.NACK_REASON_CORRUPT, why)

    def fill_blocks(self, fence: Fence, blocks: range, write: Write) -> None:
        """Let `write` fill whole blocks; if it refuses, none of them has come. Holds the lock meanwhile."""
        with self._lock:
            filling = self._filling(fence)
            filling.check_blocks(blocks)
            filling.begin()
            first, per_block = filling.ticket.first_block, filling.cut.per_block
            some = slice((blocks.start - first) * per_block, (blocks.stop - first) * per_block)
            filling.came[some] = False
            write(filling.slots[blocks.start - first : blocks.stop - first])
            filling.checksums[some] = 0
            filling.came[some] = True

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
            _check_complete(filling, commit, num_blocks, checked)
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


def _check_complete(filling: _Filling, commit: Commit, num_blocks: int, checked: int | None) -> None:
    if num_blocks != filling.ticket.num_blocks:
        raise Refused(pb.NACK_REASON_CORRUPT, f"{num_blocks} blocks committed of {filling.ticket.num_blocks}")
    if missing := filling.missing():
        raise Refused(pb.NACK_REASON_CORRUPT, f"{missing} pieces never came")
    if checked is not None and checked != digest(filling.checksums, commit.first_token):
        raise Refused(pb.NACK_REASON_CORRUPT, "the digests differ")


def _arrived(filling: _Filling, commit: Commit) -> Arrived:
    now = time.monotonic_ns()
    return Arrived(
        fence=filling.ticket.fence,
        commit=commit,
        size_bytes=len(filling.slots) * filling.ticket.block_bytes,
        first_frame_ns=filling.first_frame_ns or now,
        commit_ns=now,
    )
