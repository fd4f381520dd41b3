"""Which transport carries a ticket, and whether the two pools fit together at all.

Knows endpoints and layouts by name. Does not know how any transport works.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import ProtocolError
from kvtransfer.transport import Commit, Endpoint, KVSender, Ticket

IPC = "ipc://"


def choose(endpoints: Sequence[Endpoint], spoken: Sequence[str]) -> Endpoint:
    """The first of a ticket's endpoints that this side speaks; an ipc path that is not here comes last."""
    if common := [endpoint for endpoint in endpoints if endpoint.transport in spoken]:
        return next(filter(_reachable, common), common[0])
    offered = ", ".join(f"{e.transport} at {e.address}" for e in endpoints) or "nothing"
    raise ProtocolError(f"the peer offers {offered}; this side speaks {', '.join(spoken)}", field="endpoints")


def _reachable(endpoint: Endpoint) -> bool:
    """An ipc endpoint of another host names a path that this one lacks."""
    address = endpoint.address
    return not address.startswith(IPC) or Path(address.removeprefix(IPC)).exists()


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

    @property
    def bytes_per_s(self) -> float:
        """Of the faster transport in use, measured; 0 until something was sent."""
        return max((sender.bytes_per_s for sender in self._by_transport.values()), default=0.0)

    async def send(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> None:
        await self._of(ticket).send(ticket, first, source_blocks)

    async def commit(self, ticket: Ticket, commit: Commit) -> None:
        await self._of(ticket).commit(ticket, commit)

    async def aclose(self) -> None:
        for sender in self._by_transport.values():
            await sender.aclose()

    def _of(self, ticket: Ticket) -> KVSender:
        return self._by_transport[choose(ticket.endpoints, self.transports).transport]
