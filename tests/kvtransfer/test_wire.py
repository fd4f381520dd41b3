import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ProtocolError
from kvtransfer.transport import Endpoint, Fence, Ticket, TicketId
from kvtransfer.wire import (
    MAX_ENDPOINTS,
    PIECE_BYTES,
    Piece,
    digest,
    fence_from_proto,
    fence_to_proto,
    is_piece,
    pieces,
    ticket_from_proto,
    ticket_to_proto,
)
from protos import kvtransfer_pb2 as pb

TICKET = Ticket(
    Fence(TicketId("t"), "incarnation", 2**63, 7),
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


@given(block_bytes=st.integers(1, 5 * PIECE_BYTES))
def test_pieces_cover_a_block_once(block_bytes: int) -> None:
    cut = list(pieces(4, block_bytes))

    ends = [0, *(piece.offset + piece.size for piece in cut)]
    assert [piece.offset for piece in cut] == ends[:-1]
    assert ends[-1] == block_bytes
    assert all(is_piece(piece, block_bytes) for piece in cut)
    assert not is_piece(Piece(4, block_bytes, 0), block_bytes)


def test_a_digest_depends_on_order_of_blocks_not_of_arrival() -> None:
    assert digest({(0, 0): 1, (1, 0): 2}) == digest({(1, 0): 2, (0, 0): 1}) != digest({(0, 0): 2, (1, 0): 1})
