"""Between values and frames: tickets and fences as protobuf.

Knows the limits that both sides of the wire keep. Does not know sockets.
"""

from engine.errors import ProtocolError
from kvtransfer.transport import Endpoint, Fence, Ticket, TicketId
from protos import kvtransfer_pb2 as pb

MAX_HEADER_BYTES = 64 << 10
"""A frame's protobuf part."""
MAX_ENDPOINTS = 16
MAX_BLOCK_BYTES = 1 << 32
MAX_NUM_BLOCKS = 1 << 24
MAX_NAME_LENGTH = 4096


def check_span(ticket: Ticket, first: int, num_blocks: int, block_bytes: int) -> None:
    """Refuse to send what cannot be the ticket's, before a byte of it travels."""
    if ticket.block_bytes != block_bytes:
        raise ProtocolError(f"the ticket's blocks are {ticket.block_bytes} bytes, this pool's {block_bytes}")
    if not ticket.first_block <= first <= first + num_blocks <= ticket.num_blocks:
        last = first + num_blocks
        raise ProtocolError(f"blocks {first} to {last} of a ticket for {ticket.first_block} to {ticket.num_blocks}")


def fence_to_proto(fence: Fence) -> pb.Fence:
    return pb.Fence(ticket_id=fence.ticket_id, incarnation=fence.incarnation, attempt=fence.attempt)


def fence_from_proto(message: pb.Fence) -> Fence:
    return Fence(TicketId(message.ticket_id), message.incarnation, message.attempt)


def ticket_to_proto(ticket: Ticket) -> pb.Ticket:
    return pb.Ticket(
        id=ticket.fence.ticket_id,
        worker_id=ticket.worker_id,
        incarnation=ticket.fence.incarnation,
        attempt=ticket.fence.attempt,
        num_blocks=ticket.num_blocks,
        first_block=ticket.first_block,
        block_bytes=ticket.block_bytes,
        layout=ticket.layout,
        endpoints=[pb.Endpoint(transport=e.transport, address=e.address) for e in ticket.endpoints],
    )


def ticket_from_proto(message: pb.Ticket) -> Ticket:
    """The ticket that a peer sent; ProtocolError names the field that makes no sense."""
    _check_names(message)
    if not 0 < message.num_blocks <= MAX_NUM_BLOCKS:
        raise ProtocolError(f"ticket of {message.num_blocks} blocks", field="num_blocks")
    if message.first_block > message.num_blocks:
        raise ProtocolError(
            f"ticket starts at block {message.first_block} of {message.num_blocks}", field="first_block"
        )
    if not 0 < message.block_bytes <= MAX_BLOCK_BYTES:
        raise ProtocolError(f"ticket of blocks of {message.block_bytes} bytes", field="block_bytes")
    if not 0 < len(message.endpoints) <= MAX_ENDPOINTS:
        raise ProtocolError(f"ticket with {len(message.endpoints)} endpoints", field="endpoints")
    return Ticket(
        fence=Fence(TicketId(message.id), message.incarnation, message.attempt),
        worker_id=message.worker_id,
        num_blocks=message.num_blocks,
        first_block=message.first_block,
        block_bytes=message.block_bytes,
        layout=message.layout,
        endpoints=tuple(Endpoint(e.transport, e.address) for e in message.endpoints),
    )


def _check_names(message: pb.Ticket) -> None:
    names = {"id": message.id, "worker_id": message.worker_id, "incarnation": message.incarnation}
    for field, name in names.items():
        if not name:
            raise ProtocolError(f"ticket without {field}", field=field)
        if len(name) > MAX_NAME_LENGTH:
            raise ProtocolError(f"ticket with a {field} of {len(name)} characters", field=field)
