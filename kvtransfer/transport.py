"""What a KV transfer is, whatever carries it: the ticket, and the two sides as Protocols.

A transfer fills one ticket. Decode opens the ticket on its receivers, naming the pool blocks that may be written;
prefill sends runs of blocks as they are computed and ends with a commit. Decode may revoke the ticket at any moment;
from then on nothing of it is written. What carries the bytes is one module per transport: `inproc`, `shm`,
`zeromq`, `nccl`.

Knows tickets, fences and outcomes. Does not know sequences, schedulers or sockets.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

from engine.errors import TransferFailed
from kvtransfer.pieces import Bytes, Checksums, Pieces

TicketId = NewType("TicketId", str)


class Unreachable(TransferFailed):
    """This transport does not get to the receiver, and nothing was sent: another one may."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Names one attempt at filling one ticket; a write whose fence is not the open ticket's own is dropped."""

    ticket_id: TicketId
    incarnation: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a receiver listens."""

    transport: str
    address: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """Decode's promise of room for one request's KV: blocks `first_block` to `num_blocks` (exclusive) will come."""

    fence: Fence
    worker_id: str
    num_blocks: int
    first_block: int
    block_bytes: int
    layout: str
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """Prefill's last word on a ticket: everything was sent, and this is the token it sampled."""

    first_token: int
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A ticket is complete and checked: its blocks hold the prompt's KV. Times are `time.monotonic_ns()`."""

    fence: Fence
    commit: Commit
    size_bytes: int
    first_frame_ns: int
    commit_ns: int

    @property
    def ticket_id(self) -> TicketId:
        return self.fence.ticket_id


class BlockStore(Protocol):
    """The KV pool as transports see it, wherever it lies: blocks are runs of `block_bytes` bytes.

    Callable from any thread; `some` of `pieces` are never more than a frame carries.
    """

    @property
    def block_bytes(self) -> int: ...

    @property
    def num_blocks(self) -> int: ...

    def gather(self, pieces: Pieces, some: range, frame: Bytes) -> Checksums:
        """Copy pieces out of the pool, one after the other to the beginning of `frame`; returned, nobody reads the pool
        for it any more."""

    def scatter(self, pieces: Pieces, some: range, frame: Bytes) -> Checksums:
        """Copy what lies one after the other in `frame` to where it belongs in the pool; returned or raised, nothing of
        it is written any more, and what was written is there for the next step."""


class KVSender(Protocol):
    """Prefill's side. One per worker process; safe for any number of tickets at once."""

    async def send(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> None:
        """Push the pool's `source_blocks` into the ticket's blocks `first`, `first + 1`, ...

        Returns once the peer holds them. Returned, raised or cancelled, the transport no longer reads the source
        blocks. Calls for one ticket are made one after the other. Raises TransferFailed when the peer is gone, refuses,
        or does not take the bytes within the transport's stall limit.
        """

    async def commit(self, ticket: Ticket, commit: Commit) -> None:
        """Say that everything was sent; returns once the peer has checked and taken it. Raises TransferFailed."""

    @property
    def bytes_per_s(self) -> float:
        """Speed of what was sent lately; 0 until something was."""

    async def aclose(self) -> None: ...


class KVReceiver(Protocol):
    """Decode's side: writes into the pool's blocks of open tickets and hands complete ones to its `Deliver`."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def fenced_writes(self) -> int:
        """Frames dropped because their fence was not that of an open ticket."""

    @property
    def open_tickets(self) -> Collection[TicketId]:
        """Which may be written to now."""

    def open(self, ticket: Ticket, slots: Sequence[int]) -> None:
        """Allow writes: the ticket's block `first_block + i` is the pool's block `slots[i]`. From any thread."""

    def revoke(self, ticket_id: TicketId) -> None:
        """Return once no write of this ticket can land any more. Idempotent, quick, callable from any thread."""

    def close(self) -> None:
        """Stop listening; returns once no write can land any more."""


Deliver = Callable[[Arrived], None]
"""Called by a receiver, on a thread of its own, once per completed ticket, before the sender learns of it."""
