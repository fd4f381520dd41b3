"""Prefill's side of KV transfer through groups of torch.distributed: NCCL between GPUs, gloo between CPUs.

Frames are those of `zeromq`: fences, pieces, checksums, credit, answers and commit are the same and travel over ZeroMQ.
Only the bytes of blocks take another way: through a group of two for each receiver (`group`), made when a ticket names
it first, given up with its link, and made anew for the next ticket. A receiver with which there is no group is left to
another transport for a while; a ticket that went another way once goes that way to its end.
"""

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from engine.errors import TransferFailed
from engine.exposure import is_loopback
from kvtransfer.curve import Curve
from kvtransfer.endpoints import choose
from kvtransfer.frame_buffers import Payload
from kvtransfer.group import CPU, Backend, GroupLimits, peer_host
from kvtransfer.group_channel import GroupChannel
from kvtransfer.link import Channel
from kvtransfer.pieces import Checksums, Pieces
from kvtransfer.transport import BlockStore, Commit, Fence, Ticket, Unreachable
from kvtransfer.zeromq import MAX_TICKETS, ZeroMQSender

if TYPE_CHECKING:
    from kvtransfer.device_frames import DeviceFrames

log = logging.getLogger(__name__)

MAX_GROUPS = 16
"""Of one sender; the idle one longest unused makes room. One of NCCL takes 52 to 100 MB of a GPU."""
MAKE_S = 5.0
"""A group is there after some 30 ms, or it does not come."""
RETRY_S = 10.0
"""After this long, a group is tried again with a receiver with which there was none."""


class NcclSender(ZeroMQSender):
    """Sends blocks of `store` through groups of `backend`; belongs to the event loop it is first used on."""

    def __init__(
        self,
        backend: Backend,
        store: BlockStore,
        curve: Curve | None = None,
        *,
        frames: "DeviceFrames | None" = None,
        insecure: bool = False,
        stall_limit_s: float = 10.0,
        max_inflight_bytes: int = 16 << 20,
        max_groups: int = MAX_GROUPS,
    ) -> None:
        """`frames` are made on a GPU, as NCCL has it; the other side must receive them there. Bytes in groups are not
        encrypted: without `insecure` they do not leave the host."""
        super().__init__(
            store, curve, stall_limit_s=stall_limit_s, max_inflight_bytes=max_inflight_bytes, max_links=max_groups
        )
        self.transport = backend
        self._backend: Backend = backend
        self._on_device = frames
        self._device = frames.device if frames else CPU
        self._insecure = insecure
        self._limits = GroupLimits(min(MAKE_S, stall_limit_s / 2), stall_limit_s)
        self._threads: set[threading.Thread] = set()
        self._refused: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._elsewhere: OrderedDict[Fence, None] = OrderedDict()

    async def send(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> None:
        """As every transport's; raises Unreachable when there is no group."""
        self._check_way(ticket)
        try:
            await super().send(ticket, first, source_blocks)
        except TransferFailed as error:
            raise self._unreachable(ticket) or error from None

    async def commit(self, ticket: Ticket, commit: Commit) -> None:
        self._check_way(ticket)
        try:
            await super().commit(ticket, commit)
        except TransferFailed as error:
            raise self._unreachable(ticket) or error from None

    async def aclose(self) -> None:
        await super().aclose()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _connect(self, address: str) -> Channel:
        host = peer_host(address)
        if host is not None and not is_loopback(host) and not self._insecure:
            self._refuse(address, f"{address} is another host, and nothing encrypts what goes through a group")
        elif why := self._why_refused(address):
            raise Unreachable(why)
        else:
            refuse = partial(self._refuse, address)
            try:
                made_of = self._context, self._curve, self._backend, self._limits
                channel = GroupChannel(*made_of, refuse, address, self._device)
            except TransferFailed as error:
                self._refuse(address, error.message)
            else:
                self._threads = {thread for thread in self._threads if thread.is_alive()} | {channel.thread}
                return channel
        raise Unreachable(self._why_refused(address) or "")

    def _copy_out(self, pieces: Pieces, some: range) -> tuple[Payload, Checksums]:
        return self._on_device.gather(pieces, some) if self._on_device else super()._copy_out(pieces, some)

    def _refuse(self, address: str, why: str) -> None:
        log.warning("blocks take another way for %g s: %s", RETRY_S, why)
        self._refused[address] = (why, asyncio.get_running_loop().time() + RETRY_S)
        self._refused.move_to_end(address)
        if len(self._refused) > MAX_TICKETS:
            self._refused.popitem(last=False)

    def _why_refused(self, address: str) -> str | None:
        why, until_s = self._refused.get(address, ("", 0.0))
        return why if asyncio.get_running_loop().time() < until_s else None

    def _check_way(self, ticket: Ticket) -> None:
        if ticket.fence in self._elsewhere:
            raise Unreachable(f"ticket {ticket.fence.ticket_id} went another way before")

    def _unreachable(self, ticket: Ticket) -> Unreachable | None:
        """What to say if the call failed for want of a group."""
        why = self._why_refused(choose(ticket.endpoints, (self.transport,)).address)
        if why is None:
            return None
        self._elsewhere[ticket.fence] = None
        if len(self._elsewhere) > MAX_TICKETS:
            self._elsewhere.popitem(last=False)
        self._tickets.pop(ticket, None)
        return Unreachable(why)
