import pytest

from engine.errors import ProtocolError
from kvtransfer.transport import Endpoint, Fence, Ticket, TicketId
from kvtransfer.wire import (
    MAX_ENDPOINTS,
    fence_from_proto,
    fence_to_proto,
    ticket_from_proto,
    ticket_to_proto,
)
from protos import kvtransfer_pb2 as pb

TICKET = Ticket(
    Fence(TicketId("t"), "incarnation", 7),
    "decode-0",
    9,
    3,
    1 << 20,
    "layout",
    (Endpoint("zeromq", "tcp://a:1"),),
)


def test_tickets_and_fences_survive_the_wire() -> None:
    assert ticket_from_proto(pb.Ticket.FromString(ticket_to_proto(TICKET).SerializeToString())) == TICKET
    assert fence_from_proto(fence_to_proto(TICKET.fence)) == TICKET.fence


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("worker_id", ""),
        ("incarnation", ""),
        ("id", "x" * 5000),
        ("num_blocks", 0),
        ("num_blocks", 2**32 - 1),
        ("first_block", 10),
        ("block_bytes", 0),
        ("block_bytes", 2**63),
    ],
)
def test_a_ticket_that_makes_no_sense_names_its_field(field: str, value: str | int) -> None:
    message = ticket_to_proto(TICKET)
    setattr(message, field, value)
    with pytest.raises(ProtocolError) as raised:
        ticket_from_proto(message)
    assert raised.value.field == field


@pytest.mark.parametrize("count", [0, MAX_ENDPOINTS + 1])
def test_a_ticket_has_some_endpoints(count: int) -> None:
    message = ticket_to_proto(TICKET)
    del message.endpoints[:]
    message.endpoints.extend([pb.Endpoint(transport="zeromq", address="a")] * count)
    with pytest.raises(ProtocolError):
        ticket_from_proto(message)
