"""Prefill's side of KV transfer to a receiver on the same host: the receiver copies out of this side's pool.

1. The link to a receiver begins by handing over the descriptor of the pool's memory, or CUDA's handle (`cuda_ipc`).
2. `send` names source blocks; only their numbers travel. The receiver checks the fence, copies and answers.
3. Until the answer the blocks stay as they are. If the link ends without one, the receiver notices after each copy that
   it did and counts nothing, so what it may have read of changed blocks is never taken for a ticket's content.

No checksums: the bytes never leave memory, and a copy is as trustworthy as the step that computed them.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

from engine.errors import TransferFailed
from engine.shared_memory import SharedMemory
from kvtransfer.cuda_ipc import DeviceMemory
from kvtransfer.device_store import DeviceStore
from kvtransfer.endpoints import CUDA_IPC, SHM, choose
from kvtransfer.host_store import HostStore
from kvtransfer.link import Frame, Limits, Message
from kvtransfer.links import Links
from kvtransfer.shm_channel import ShmChannel
from kvtransfer.transport import Commit, Ticket, Unreachable
from kvtransfer.wire import check_span, fence_to_proto
from protos import kvtransfer_pb2 as pb

MAX_SOURCES = 1024
"""Blocks in one frame."""
FRAMES_UNDER_WAY = 64
"""At most: so few that a socket's buffer holds all of them, and their answers."""
MAX_REFUSED = 1024


@dataclass(frozen=True, slots=True)
class Way:
    """How one kind of memory is read."""

    transport: str
    copy_bytes: int
    """A frame asks for this much at most, or for one block: several are under way, so that the receiver never waits."""
    locked_bytes: int
    """Copied before `revoke` gets its turn, or one block"""

    @property
    def max_inflight_bytes(self) -> int:
        return 4 * self.copy_bytes

    def max_sources(self, block_bytes: int) -> int:
        """Blocks that one frame may name."""
        return min(MAX_SOURCES, max(1, self.copy_bytes // block_bytes))


OF_HOST = Way(SHM, copy_bytes=4 << 20, locked_bytes=1 << 20)  # some 0.1 ms
OF_GPU = Way(CUDA_IPC, copy_bytes=32 << 20, locked_bytes=32 << 20)


def way_of(store: HostStore | DeviceStore) -> Way:
    """By where the pool lies."""
    return OF_HOST if isinstance(store, HostStore) else OF_GPU


class ShmSender:
    """Sends blocks of `store`, block i of which lies at i times its size in `memory`; belongs to one event loop."""

    def __init__(
        self,
        store: HostStore | DeviceStore,
        memory: SharedMemory | DeviceMemory,
        *,
        stall_limit_s: float = 10.0,
        max_links: int = 64,
    ) -> None:
        self._store = store
        self._memory = memory
        self._way = way_of(store)
        self._refused: OrderedDict[str, str] = OrderedDict()
        self._numbers = count()
        most = self._way.max_inflight_bytes
        self._links = Links(self._connect, Limits(stall_limit_s, most, most // FRAMES_UNDER_WAY), max_links)

    @property
    def bytes_per_s(self) -> float:
        return self._links.speed.bytes_per_s

    async def send(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> None:
        """As every transport's; raises Unreachable before anything was sent."""
        check_span(ticket, first, len(source_blocks), self._store.block_bytes)
        await self._run(ticket, self._frames(ticket, first, source_blocks))

    async def commit(self, ticket: Ticket, commit: Commit) -> None:
        message = pb.Commit(
            num_blocks=ticket.num_blocks, first_token=commit.first_token, traceparent=commit.traceparent
        )
        number = next(self._numbers)
        header = pb.SenderFrame(fence=fence_to_proto(ticket.fence), number=number, commit=message)
        await self._run(ticket, [_frame(ticket, number, header)])

    async def aclose(self) -> None:
        self._links.close()

    def _frames(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> Iterator[Frame]:
        fence = fence_to_proto(ticket.fence)
        per_frame = self._way.max_sources(ticket.block_bytes)
        for start in range(0, len(source_blocks), per_frame):
            sources = source_blocks[start : start + per_frame]
            assert 0 <= min(sources) <= max(sources) < self._store.num_blocks
            number = next(self._numbers)
            copy = pb.Copy(first=first + start, source_blocks=sources)
            header = pb.SenderFrame(fence=fence, number=number, copy=copy)
            yield _frame(ticket, number, header, size_bytes=len(sources) * ticket.block_bytes)

    async def _run(self, ticket: Ticket, frames: Iterable[Frame]) -> None:
        address = choose(ticket.endpoints, (self._way.transport,)).address
        try:
            await self._links.to(address).run(frames)
        except TransferFailed as error:
            if why := self._refused.get(address):  # what was asked for before it said so was not done either
                raise Unreachable(why) from error
            raise

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
