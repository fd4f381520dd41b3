"""Which transport carries a ticket, and whether the two pools fit together at all.

Knows endpoints and layouts by name. Does not know how any transport works.
"""

import functools
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from engine.errors import ProtocolError
from kvtransfer.link_meter import LinkMeter, LinkMeters
from kvtransfer.transport import Commit, Endpoint, KVSender, Ticket, Unreachable

IPC = "ipc://"
SHM, CUDA_IPC = "shm", "cuda-ipc"
"""Of memory that the receiver reads itself, the host's or a GPU's; what they say of it goes over the same sockets."""


def choose(endpoints: Sequence[Endpoint], spoken: Sequence[str]) -> Endpoint:
    """The first of a ticket's endpoints that this side speaks; what is not of this host comes last."""
    if common := [endpoint for endpoint in endpoints if endpoint.transport in spoken]:
        return next(filter(_reachable, common), common[0])
    offered = ", ".join(f"{e.transport} at {e.address}" for e in endpoints) or "nothing"
    raise ProtocolError(f"the peer offers {offered}; this side speaks {', '.join(spoken)}", field="endpoints")


def _reachable(endpoint: Endpoint) -> bool:
    """An ipc endpoint of another host names a path that this one lacks; one of shared memory names its host."""
    address = endpoint.address
    if endpoint.transport in (SHM, CUDA_IPC):
        return address.startswith(shm_address(""))
    return not address.startswith(IPC) or Path(address.removeprefix(IPC)).exists()


def shm_address(name: str) -> str:
    """Of the socket `name` in this process's network namespace, under this boot of the kernel."""
    return f"shm://{_host()}/{name}"


def beside(address: str) -> str:
    """Where a second socket may listen, for what does not go to the one at `address`."""
    return f"{address}.group" if address.startswith(IPC) else f"{address.rpartition(':')[0]}:0"


def shm_name(address: str) -> bytes:
    """What to bind or connect to, in the abstract namespace."""
    return b"\0" + address.rpartition("/")[2].encode()


@functools.cache
def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}.{os.stat('/proc/self/ns/net').st_ino}"  # noqa: PTH116 — Path.stat() is the same with more words


def check_layout(ticket: Ticket, layout: str, block_bytes: int) -> None:
    """Refuse a ticket whose blocks are not shaped like this side's."""
    if ticket.layout != layout:
        raise ProtocolError(f"the ticket's layout is {ticket.layout!r}, this pool's {layout!r}", field="layout")
    if ticket.block_bytes != block_bytes:
        message = f"the ticket's blocks are {ticket.block_bytes} bytes, this pool's {block_bytes}"
        raise ProtocolError(message, field="block_bytes")


class Senders:
    """A sender that hands each ticket to the transport which reaches its receiver."""

    def __init__(self, by_transport: Mapping[str, KVSender]) -> None:
        self._by_transport = dict(by_transport)
        self.transports = tuple(by_transport)
        """What this side speaks."""
        self._meters = LinkMeters()

    @property
    def links(self) -> Sequence[LinkMeter]:
        """Every way that something was sent, or tried to be."""
        return self._meters.all

    @property
    def bytes_per_s(self) -> float:
        """Of the faster transport in use, measured; 0 until something was sent."""
        return max((sender.bytes_per_s for sender in self._by_transport.values()), default=0.0)

    async def send(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> None:
        size_bytes = len(source_blocks) * ticket.block_bytes
        await self._first_reaching(ticket, size_bytes, lambda sender: sender.send(ticket, first, source_blocks))

    async def commit(self, ticket: Ticket, commit: Commit) -> None:
        meter = await self._first_reaching(ticket, 0, lambda sender: sender.commit(ticket, commit))
        meter.transfers += 1

    async def aclose(self) -> None:
        for sender in self._by_transport.values():
            await sender.aclose()

    async def _first_reaching(
        self, ticket: Ticket, size_bytes: int, call: Callable[[KVSender], Awaitable[None]]
    ) -> LinkMeter:
        """The way that it went."""
        for transport in self._reaching(ticket):
            meter = self._meters.of(ticket.worker_id, transport)
            try:
                with meter.sending(size_bytes):
                    await call(self._by_transport[transport])
            except Unreachable as error:
                unreachable = error
            else:
                return meter
        raise unreachable

    def _reaching(self, ticket: Ticket) -> Iterator[str]:
        """The transports that may reach the ticket's receiver, best first; at least one."""
        spoken = list(self.transports)
        best = choose(ticket.endpoints, spoken).transport
        yield best
        spoken.remove(best)
        for endpoint in ticket.endpoints:
            if endpoint.transport in spoken:
                spoken.remove(endpoint.transport)
                yield endpoint.transport
