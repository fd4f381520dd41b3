"""What goes over a link is counted where every transport passes, whatever becomes of it."""

import asyncio
from collections.abc import Sequence

import pytest

from engine.errors import TransferFailed
from kvtransfer.endpoints import Senders
from kvtransfer.link_meter import MAX_LINKS, LinkMeters
from kvtransfer.transport import Commit, Endpoint, Ticket, Unreachable
from tests.kvtransfer.pools import Pool, make_ticket

NEAR, FAR = Endpoint("inproc", "x"), Endpoint("zeromq", "tcp://127.0.0.1:1")


class Sender:
    """Sends nothing; raises what it is told to, once it may."""

    bytes_per_s = 0.0

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.may = asyncio.Event()
        self.may.set()

    async def send(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> None:
        await self.may.wait()
        if self.error is not None:
            raise self.error

    async def commit(self, ticket: Ticket, commit: Commit) -> None:
        await self.send(ticket, 0, ())

    async def aclose(self) -> None:
        pass


def ticket() -> Ticket:
    made = make_ticket(FAR, Pool(4, 100), 4)
    return Ticket(made.fence, "decode-7", 4, 0, 100, made.layout, (FAR,))


async def test_bytes_and_whole_transfers() -> None:
    senders = Senders({"zeromq": Sender()})
    await senders.send(ticket(), 0, [0, 1, 2])
    await senders.send(ticket(), 3, [3])
    await senders.commit(ticket(), Commit(1))
    (link,) = senders.links
    assert (link.worker_id, link.transport) == ("decode-7", "zeromq")
    assert (link.size_bytes, link.transfers, link.failures) == (400, 1, {})
    assert link.bytes_per_s > 0
    assert (link.in_flight, link.in_flight_bytes) == (0, 0)


async def test_what_is_under_way() -> None:
    sender = Sender()
    sender.may.clear()
    senders = Senders({"zeromq": sender})
    sends = [asyncio.create_task(senders.send(ticket(), 0, blocks)) for blocks in ([0, 1], [2])]
    await asyncio.sleep(0)
    (link,) = senders.links
    assert (link.in_flight, link.in_flight_bytes, link.size_bytes) == (2, 300, 0)
    sends[1].cancel()
    sender.may.set()
    await asyncio.gather(*sends, return_exceptions=True)
    assert (link.in_flight, link.in_flight_bytes, link.size_bytes, link.failures) == (0, 0, 200, {})


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TransferFailed("gone"), "lost"),
        (TransferFailed("no", why="refused"), "refused"),
        (Unreachable("far"), "unreachable"),
    ],
)
async def test_a_failure_is_counted_by_why_and_passed_on(error: TransferFailed, why: str) -> None:
    senders = Senders({"zeromq": Sender(error)})
    with pytest.raises(type(error)):
        await senders.send(ticket(), 0, [0])
    (link,) = senders.links
    assert (link.failures, link.size_bytes, link.transfers, link.in_flight) == ({why: 1}, 0, 0, 0)


async def test_what_does_not_get_there_goes_another_way_and_both_are_told() -> None:
    senders = Senders({"inproc": Sender(Unreachable("another host")), "zeromq": Sender()})
    made = ticket()
    both = Ticket(made.fence, made.worker_id, 4, 0, 100, made.layout, (NEAR, FAR))
    await senders.send(both, 0, [0, 1])
    by_transport = {link.transport: link for link in senders.links}
    assert by_transport["zeromq"].size_bytes == 200
    assert by_transport["inproc"].failures == {"unreachable": 1}


def test_links_that_nobody_uses_are_forgotten_first() -> None:
    meters = LinkMeters()
    with meters.of("busy", "shm").sending(1):
        for number in range(2 * MAX_LINKS):
            meters.of(f"decode-{number}", "shm")
        kept = {meter.worker_id for meter in meters.all}
    assert len(kept) == MAX_LINKS
    assert {"busy", f"decode-{2 * MAX_LINKS - 1}"} <= kept
