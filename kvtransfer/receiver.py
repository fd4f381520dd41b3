"""What every receiver does, however bytes reach it: keep the open tickets, answer frames, deliver complete tickets."""

import logging
from collections.abc import Callable, Collection, Sequence

from kvtransfer.open_tickets import OpenTickets, Refused
from kvtransfer.transport import BlockStore, Commit, Deliver, Endpoint, Fence, Ticket, TicketId
from protos import kvtransfer_pb2 as pb

logger = logging.getLogger(__name__)

ANY_TOKEN = 1 << 31
"""More ids than the wire can say."""


class TicketReceiver:
    """A `KVReceiver` but for its `close`: whoever listens derives from this and sets `_endpoint`."""

    _endpoint: Endpoint

    def __init__(self, store: BlockStore, deliver: Deliver, vocab_size: int = ANY_TOKEN) -> None:
        """Commits of tokens that are not below `vocab_size` are refused, and leave their tickets open."""
        self.tickets = OpenTickets(store.block_bytes)
        self._deliver = deliver
        self._vocab_size = vocab_size
        self._malformed_frames = 0

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    @property
    def fenced_writes(self) -> int:
        return self.tickets.fenced_writes

    @property
    def open_tickets(self) -> Collection[TicketId]:
        return self.tickets.ids()

    @property
    def malformed_frames(self) -> int:
        """Frames that broke the wire contract."""
        return self._malformed_frames

    def open(self, ticket: Ticket, slots: Sequence[int]) -> None:
        self.tickets.open(ticket, slots)

    def revoke(self, ticket_id: TicketId) -> None:
        self.tickets.revoke(ticket_id)

    def complete(self, fence: Fence, commit: Commit, num_blocks: int, digest: int | None) -> None:
        """Close a complete ticket and deliver it; raises Refused."""
        if not 0 <= commit.first_token < self._vocab_size:
            raise Refused(pb.NACK_REASON_MALFORMED, f"no token has the id {commit.first_token}")
        if arrived := self.tickets.complete(fence, commit, num_blocks, digest):
            self._deliver(arrived)

    def _answer(self, frame: pb.SenderFrame, take: Callable[[], None]) -> bytes:
        """Do what `frame` asks; what its sender is told of that."""
        answer = pb.ReceiverFrame(fence=frame.fence, number=frame.number)
        try:
            take()
            answer.ack.SetInParent()
        except Refused as refused:
            self._malformed_frames += refused.nack == pb.NACK_REASON_MALFORMED
            answer.nack.reason, answer.nack.message = refused.nack, refused.message
            logger.debug("refused a frame: %s", refused)
        return answer.SerializeToString()
