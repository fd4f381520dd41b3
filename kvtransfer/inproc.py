"""KV transfer within one process: the sender copies from pool to pool, under the same rules as on a wire.

Both sides are given the same `Hub`, which knows receivers by address. Knows no sockets and computes no checksums.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence

from engine.errors import TransferFailed
from kvtransfer.endpoints import choose
from kvtransfer.host_store import HostStore
from kvtransfer.open_tickets import Refused
from kvtransfer.pieces import Numbers
from kvtransfer.receiver import ANY_TOKEN, TicketReceiver
from kvtransfer.speed import Speed
from kvtransfer.transport import Commit, Deliver, Endpoint, Fence, Ticket
from kvtransfer.wire import check_span

TRANSPORT = "inproc"


class Hub:
    """The receivers of one process, by address."""

    def __init__(self) -> None:
        self._receivers: dict[str, InprocReceiver] = {}
        self._numbers = itertools.count()

    def add(self, receiver: "InprocReceiver") -> str:
        address = f"pool-{next(self._numbers)}"
        self._receivers[address] = receiver
        return address

    def remove(self, address: str) -> None:
        self._receivers.pop(address, None)

    def find(self, address: str) -> "InprocReceiver":
        if (receiver := self._receivers.get(address)) is None:
            raise TransferFailed(f"nobody listens at {address}")
        return receiver


class InprocReceiver(TicketReceiver):
    """Decode's side; its writes happen on the sender's thread, completed tickets are delivered on another."""

    def __init__(self, hub: Hub, store: HostStore, deliver: Deliver, *, vocab_size: int = ANY_TOKEN) -> None:
        super().__init__(store, deliver, vocab_size)
        self._hub = hub
        self._store = store
        self._endpoint = Endpoint(TRANSPORT, hub.add(self))

    def take(self, fence: Fence, block: int, data: memoryview) -> None:
        """Copy one block; raises Refused."""

        def write(slots: Numbers) -> None:
            self._store.block_view(int(slots[0]))[:] = data

        self.tickets.fill_blocks(fence, range(block, block + 1), write)

    def close(self) -> None:
        self._hub.remove(self._endpoint.address)
        self.tickets.revoke_all()


class InprocSender:
    """Prefill's side."""

    def __init__(self, hub: Hub, store: HostStore) -> None:
        self._hub = hub
        self._store = store
        self._speed = Speed()

    @property
    def bytes_per_s(self) -> float:
        return self._speed.bytes_per_s

    async def send(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> None:
        check_span(ticket, first, len(source_blocks), self._store.block_bytes)
        for block, source_block in enumerate(source_blocks, first):
            await asyncio.sleep(0)  # one block's copy at a time: others on the loop go between
            start = time.perf_counter()
            self._copy(ticket, block, source_block)
            self._speed.add(ticket.block_bytes, time.perf_counter() - start)

    async def commit(self, ticket: Ticket, commit: Commit) -> None:
        receiver = self._receiver(ticket)
        try:
            await asyncio.to_thread(receiver.complete, ticket.fence, commit, ticket.num_blocks, None)
        except Refused as refused:
            raise TransferFailed(f"commit refused: {refused}", why="refused") from refused

    async def aclose(self) -> None:
        """Nothing is held between calls."""

    def _copy(self, ticket: Ticket, block: int, source_block: int) -> None:
        receiver = self._receiver(ticket)
        source = self._store.block_view(source_block)
        try:
            receiver.take(ticket.fence, block, source)
        except Refused as refused:
            raise TransferFailed(f"block {block} refused: {refused}", why="refused") from refused

    def _receiver(self, ticket: Ticket) -> InprocReceiver:
        return self._hub.find(choose(ticket.endpoints, (TRANSPORT,)).address)
