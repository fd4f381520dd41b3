"""Prefill's side of KV transfer to a receiver on the same host: the receiver copies out of this side's pool.

1. The link to a receiver begins by handing over the descriptor of the pool's memory.
2. `send` names source blocks; only their numbers travel. The receiver checks the fence, copies and answers.
3. Until the answer the blocks stay as they are. If the link ends without one, the receiver notices after each copy that
   it did and counts nothing, so what it may have read of changed blocks is never taken for a ticket's content.

No checksums: the bytes never leave memory, and a copy is as trustworthy as the step that computed them.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count

from engine.shared_memory import SharedMemory
from kvtransfer.endpoints import SHM, choose
from kvtransfer.host_store import HostStore
from kvtransfer.link import Frame, Limits, Link, Message
from kvtransfer.links import Links
from kvtransfer.shm_channel import ShmChannel
from kvtransfer.transport import Commit, Ticket, Unreachable
from kvtransfer.wire import check_span, fence_to_proto
from protos import kvtransfer_pb2 as pb

COPY_BYTES = 4 << 20
"""A frame asks for this much at most, or for one block: several are under way, so that the receiver never waits."""
MAX_SOURCES = 1024
"""Blocks in one frame."""
MIN_COST = 256 << 10
"""Credit of a frame at least: so few are under way that a socket's buffer holds all of them, and their answers."""
MAX_REFUSED = 1024


class ShmSender:
    """Sends blocks of `store`, block i of which lies at i times its size in `memory`; belongs to one event loop."""

    def __init__(
        self,
        store: HostStore,
        memory: SharedMemory,
        *,
        stall_limit_s: float = 10.0,
        max_inflight_bytes: int = 16 << 20,
        max_links: int = 64,
    ) -> None:
        self._store = store
        self._memory = memory
        self._refused: OrderedDict[str, str] = OrderedDict()
        self._numbers = count()
        self._links = Links(self._connect, Limits(stall_limit_s, max_inflight_bytes, MIN_COST), max_links)

    @property
    def bytes_per_s(self) -> float:
        return self._links.speed.bytes_per_s

    async def send(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> None:
        """As every transport's; raises Unreachable before anything was sent."""
        check_span(ticket, first, len(source_blocks), self._store.block_bytes)
        await self._link(ticket).run(self._frames(ticket, first, source_blocks))

    async def commit(self, ticket: Ticket, commit: Commit) -> None:
        message = pb.Commit(
            num_blocks=ticket.num_blocks, first_token=commit.first_token, traceparent=commit.traceparent
        )
        number = next(self._numbers)
        header = pb.SenderFrame(fence=fence_to_proto(ticket.fence), number=number, commit=message)
        await self._link(ticket).run([_frame(ticket, number, header)])

    async def aclose(self) -> None:
        self._links.close()

    def _frames(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> Iterator[Frame]:
        fence = fence_to_proto(ticket.fence)
        per_frame = max_sources(ticket.block_bytes)
        for start in range(0, len(source_blocks), per_frame):
            sources = source_blocks[start : start + per_frame]
            assert 0 <= min(sources) <= max(sources) < len(self._store.memory) // ticket.block_bytes
            number = next(self._numbers)
            copy = pb.Copy(first=first + start, source_blocks=sources)
            header = pb.SenderFrame(fence=fence, number=number, copy=copy)
            yield _frame(ticket, number, header, size_bytes=len(sources) * ticket.block_bytes)

    def _link(self, ticket: Ticket) -> Link:
        return self._links.to(choose(ticket.endpoints, (SHM,)).address)

    def _connect(self, address: str) -> ShmChannel:
        if why := self._refused.get(address):
            raise Unreachable(why)
        return ShmChannel(address, self._memory, self._store.block_bytes, partial(self._refuse, address))

    def _refuse(self, address: str, why: str) -> None:
        """The receiver cannot use this side's memory, now or later."""
        self._refused[address] = why
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)


def _frame(ticket: Ticket, number: int, header: pb.SenderFrame, size_bytes: int = 0) -> Frame:
    return Frame(ticket.fence, number, lambda: Message(header.SerializeToString()), size_bytes)


def max_sources(block_bytes: int) -> int:
    """Blocks that one frame may name."""
    return min(MAX_SOURCES, max(1, COPY_BYTES // block_bytes))
