"""What every transport promises; one suite for all of them."""

import asyncio
import random
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from engine.errors import ProtocolError, TransferFailed
from kvtransfer.transport import Commit, Endpoint, Ticket
from tests.kvtransfer import peer
from tests.kvtransfer.pools import (
    BETWEEN_PROCESSES,
    TRANSPORTS,
    Pool,
    Transport,
    Wire,
    make_ticket,
    name_of,
    refenced,
)

ODD_SIZES = (1, 4097, (64 << 10) + 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, (1 << 20) + 1, (2 << 20) + 77777)


@pytest.fixture(params=TRANSPORTS)
async def wire(request: pytest.FixtureRequest) -> AsyncIterator[Wire]:
    async with Wire(request.param) as wire:
        yield wire


@pytest.fixture(params=BETWEEN_PROCESSES)
async def far_wire(request: pytest.FixtureRequest) -> AsyncIterator[Wire]:
    async with Wire(request.param) as wire:
        yield wire


@pytest.mark.parametrize("block_bytes", ODD_SIZES)
async def test_blocks_arrive_unchanged_wherever_they_go(wire: Wire, block_bytes: int) -> None:
    source, target = Pool(9, block_bytes, seed=1), Pool(12, block_bytes, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    ticket = make_ticket(receiver, target, num_blocks=7)
    source_blocks, slots = random.Random(3).sample(range(9), 7), random.Random(4).sample(range(12), 7)
    others = {block: target.block(block) for block in range(12) if block not in slots}

    receiver.open(ticket, slots)
    await sender.send(ticket, 0, source_blocks)
    await sender.commit(ticket, Commit(first_token=42, traceparent="00-ab-cd-01"))

    assert target.blocks(slots) == source.blocks(source_blocks)
    assert {block: target.block(block) for block in others} == others
    (arrived,) = wire.arrived
    assert (arrived.ticket_id, arrived.commit) == ("t", Commit(42, "00-ab-cd-01"))
    assert arrived.size_bytes == 7 * block_bytes
    assert arrived.first_frame_ns <= arrived.commit_ns


@pytest.mark.parametrize("token", [-1, 50, 2**31 - 1])
async def test_a_commit_of_no_token_of_the_vocabulary_is_refused_and_can_be_made_good(wire: Wire, token: int) -> None:
    source, target = Pool(1, 5000, seed=1), Pool(1, 5000, seed=2)
    receiver, sender = wire.receiver(target, vocab_size=50), wire.sender(source)
    ticket = make_ticket(receiver, target, num_blocks=1)
    receiver.open(ticket, [0])
    await sender.send(ticket, 0, [0])
    with pytest.raises(TransferFailed, match=f"no token has the id {token}"):
        await sender.commit(ticket, Commit(token))
    assert (wire.arrived, list(receiver.open_tickets)) == ([], [ticket.fence.ticket_id])
    await sender.send(ticket, 0, [0])
    await sender.commit(ticket, Commit(49))
    assert [arrived.commit.first_token for arrived in wire.arrived] == [49]


async def test_many_small_blocks_fill_more_than_one_frame(wire: Wire) -> None:
    source, target = Pool(1000, 33, seed=1), Pool(1000, 33, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    ticket = make_ticket(receiver, target, num_blocks=1000)
    slots = random.Random(3).sample(range(1000), 1000)

    receiver.open(ticket, slots)
    await sender.send(ticket, 0, range(1000))
    await sender.commit(ticket, Commit(1))

    assert target.blocks(slots) == source.blocks(range(1000))


async def test_a_prefix_that_decode_holds_is_not_sent(wire: Wire) -> None:
    source, target = Pool(4, 5000, seed=1), Pool(4, 5000, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    ticket = make_ticket(receiver, target, num_blocks=5, first_block=2)

    receiver.open(ticket, [3, 0, 1])
    await sender.send(ticket, 2, [0])
    await sender.send(ticket, 3, [1, 2])
    await sender.commit(ticket, Commit(1))

    assert target.blocks([3, 0, 1]) == source.blocks([0, 1, 2])
    assert wire.arrived[0].size_bytes == 3 * 5000


async def test_a_ticket_without_blocks_to_send_only_commits(wire: Wire) -> None:
    pool = Pool(1, 100)
    receiver, sender = wire.receiver(pool), wire.sender(pool)
    ticket = make_ticket(receiver, pool, num_blocks=3, first_block=3)

    receiver.open(ticket, [])
    await sender.commit(ticket, Commit(1))

    assert [arrived.size_bytes for arrived in wire.arrived] == [0]


async def test_tickets_share_the_way_and_come_in_pieces(wire: Wire) -> None:
    source, target = Pool(40, 300_001, seed=1), Pool(40, 300_001, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    tickets = [make_ticket(receiver, target, num_blocks=10, name=str(i)) for i in range(4)]
    slots = [list(range(i, 40, 4)) for i in range(4)]

    async def transfer(i: int) -> None:
        for first, last in ((0, 3), (3, 4), (4, 10)):
            await sender.send(tickets[i], first, [i * 10 + block for block in range(first, last)])
        await sender.commit(tickets[i], Commit(i))

    for ticket, mine in zip(tickets, slots, strict=True):
        receiver.open(ticket, mine)
    await asyncio.gather(*(transfer(i) for i in range(4)))

    for i, mine in enumerate(slots):
        assert target.blocks(mine) == source.blocks(range(i * 10, i * 10 + 10))
    assert sorted((arrived.ticket_id, arrived.commit.first_token) for arrived in wire.arrived) == [
        (str(i), i) for i in range(4)
    ]


async def test_several_senders_fill_one_pool(wire: Wire) -> None:
    target = Pool(6, 100_000)
    receiver = wire.receiver(target)
    sources = [Pool(2, 100_000, seed=i) for i in (1, 2, 3)]
    senders = [wire.sender(source) for source in sources]
    tickets = [make_ticket(receiver, target, num_blocks=2, name=str(i)) for i in range(3)]

    for i, ticket in enumerate(tickets):
        receiver.open(ticket, [2 * i, 2 * i + 1])
    await asyncio.gather(*(sender.send(ticket, 0, [1, 0]) for sender, ticket in zip(senders, tickets, strict=True)))

    for i, source in enumerate(sources):
        assert target.blocks([2 * i, 2 * i + 1]) == source.blocks([1, 0])


async def test_revoke_ends_a_transfer_where_it_stands(wire: Wire) -> None:
    source, target = Pool(30, 1 << 20, seed=1), Pool(30, 1 << 20, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    ticket = make_ticket(receiver, target, num_blocks=30)
    after_revoke: list[bytes] = []

    def revoke(num_views: int) -> None:
        if num_views == 5:
            receiver.revoke(ticket.fence.ticket_id)
            after_revoke.append(bytes(target.content))

    receiver.open(ticket, range(30))
    source.on_view = revoke
    with pytest.raises(TransferFailed, match="no such ticket"):
        await sender.send(ticket, 0, range(30))
    with pytest.raises(TransferFailed):
        await sender.commit(ticket, Commit(1))

    assert after_revoke == [bytes(target.content)]
    assert receiver.fenced_writes > 0
    assert not wire.arrived
    receiver.revoke(ticket.fence.ticket_id)


@pytest.mark.parametrize("changes", [{"attempt": 2}, {"incarnation": "before the restart"}])
async def test_a_stale_fence_writes_nothing(wire: Wire, changes: dict[str, str | int]) -> None:
    source, target = Pool(2, 1000, seed=1), Pool(2, 1000, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    ticket = make_ticket(receiver, target, num_blocks=2)
    before = bytes(target.content)

    receiver.open(ticket, [0, 1])
    with pytest.raises(TransferFailed):
        await sender.send(refenced(ticket, **changes), 0, [0, 1])
    with pytest.raises(TransferFailed):
        await sender.commit(refenced(ticket, **changes), Commit(1))

    assert bytes(target.content) == before
    assert receiver.fenced_writes == 2
    assert not wire.arrived


async def test_a_new_attempt_ends_the_one_before(wire: Wire) -> None:
    source, target = Pool(2, 1000, seed=1), Pool(4, 1000, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    ticket = make_ticket(receiver, target, num_blocks=2)
    again = refenced(ticket, attempt=2)

    receiver.open(ticket, [0, 1])
    await sender.send(ticket, 0, [0])
    receiver.open(again, [2, 3])
    with pytest.raises(TransferFailed):
        await sender.send(ticket, 1, [1])
    await sender.send(again, 0, [0, 1])
    await sender.commit(again, Commit(1))

    assert target.blocks([2, 3]) == source.blocks([0, 1])
    assert len(wire.arrived) == 1


async def test_a_commit_needs_every_block(wire: Wire) -> None:
    source, target = Pool(3, 1000, seed=1), Pool(3, 1000, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    ticket = make_ticket(receiver, target, num_blocks=3)

    receiver.open(ticket, [0, 1, 2])
    await sender.send(ticket, 0, [0])
    await sender.send(ticket, 2, [2])
    with pytest.raises(TransferFailed, match="1 pieces never came"):
        await sender.commit(ticket, Commit(1))
    assert not wire.arrived

    await sender.send(ticket, 1, [1])
    await sender.commit(ticket, Commit(1))
    assert target.blocks([0, 1, 2]) == source.blocks([0, 1, 2])


async def test_a_ticket_is_delivered_once_and_then_closed(wire: Wire) -> None:
    source, target = Pool(1, 1000, seed=1), Pool(1, 1000, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    ticket = make_ticket(receiver, target, num_blocks=1)

    receiver.open(ticket, [0])
    await sender.send(ticket, 0, [0])
    await sender.send(ticket, 0, [0])
    await sender.commit(ticket, Commit(1))
    await sender.commit(ticket, Commit(1))
    with pytest.raises(TransferFailed):
        await sender.send(ticket, 0, [0])

    assert len(wire.arrived) == 1
    assert receiver.fenced_writes == 1


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 12, 30])
async def test_after_a_cancelled_send_the_source_blocks_are_the_callers_again(wire: Wire, turns: int) -> None:
    source, target = Pool(48, 600_000, seed=1), Pool(48, 600_000, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    ticket = make_ticket(receiver, target, num_blocks=48)
    receiver.open(ticket, range(48))
    cancelled = threading.Event()

    def hold(num_views: int) -> None:
        """A receiver with a thread of its own does not get to the end before the cancellation."""
        if num_views >= 3 and threading.current_thread() is not threading.main_thread():
            cancelled.wait()

    target.on_view = hold
    sending = asyncio.create_task(sender.send(ticket, 0, range(48)))
    for _ in range(turns):
        await asyncio.sleep(0)
    sending.cancel()
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await sending
    source.overwrite(range(48), 0xEE)
    with pytest.raises(TransferFailed):
        await sender.commit(ticket, Commit(1))  # by its answer, the receiver has seen most of what was on its way
    receiver.revoke(ticket.fence.ticket_id)

    assert bytes([0xEE]) * 64 not in target.content


async def test_a_transfer_goes_on_where_a_cancelled_one_shared_its_way(wire: Wire) -> None:
    num_dropped = 80  # more than can be under way in three turns of the loop
    source, target = Pool(20 + num_dropped, 1 << 20, seed=1), Pool(20 + num_dropped, 1 << 20, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source)
    kept = make_ticket(receiver, target, num_blocks=20, name="kept")
    dropped = make_ticket(receiver, target, num_blocks=num_dropped, name="dropped")
    receiver.open(kept, range(20))
    receiver.open(dropped, range(20, 20 + num_dropped))

    dropping = asyncio.create_task(sender.send(dropped, 0, range(20, 20 + num_dropped)))
    keeping = asyncio.create_task(sender.send(kept, 0, range(20)))
    for _ in range(3):
        await asyncio.sleep(0)
    dropping.cancel()
    await keeping
    await sender.commit(kept, Commit(1))

    assert target.blocks(range(20)) == source.blocks(range(20))
    with pytest.raises(asyncio.CancelledError):
        await dropping


async def test_nobody_listening_is_a_failed_transfer(wire: Wire) -> None:
    pool = Pool(4, 1 << 20)
    sender = wire.sender(pool, stall_limit_s=0.2)
    ticket = make_ticket(wire.unused_endpoint(), pool, num_blocks=4)

    with pytest.raises(TransferFailed):
        await sender.send(ticket, 0, range(4))


async def test_a_receiver_closed_on_the_way_is_a_failed_transfer(wire: Wire) -> None:
    source, target = Pool(30, 1 << 20, seed=1), Pool(30, 1 << 20, seed=2)
    receiver, sender = wire.receiver(target), wire.sender(source, stall_limit_s=2.0)
    ticket = make_ticket(receiver, target, num_blocks=30)
    source.on_view = lambda num_views: receiver.close() if num_views == 5 else None

    receiver.open(ticket, range(30))
    with pytest.raises(TransferFailed):
        await sender.send(ticket, 0, range(30))
    after_close = bytes(target.content)
    with pytest.raises(TransferFailed):
        await wire.sender(source, stall_limit_s=0.2).send(ticket, 0, [0])
    assert bytes(target.content) == after_close


async def test_a_killed_peer_is_a_failed_transfer(far_wire: Wire) -> None:
    pool = Pool(peer.NUM_BLOCKS, peer.BLOCK_BYTES)
    transport = name_of(far_wire.transport)
    command = [sys.executable, "-m", "tests.kvtransfer.peer", transport, far_wire.address()]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout
    address = (await process.stdout.readline()).decode().strip()
    ticket = make_ticket(Endpoint(transport, address), pool, peer.NUM_BLOCKS)
    pool.on_view = lambda num_views: process.kill() if num_views == 5 else None
    with pytest.raises(TransferFailed):
        await far_wire.sender(pool, stall_limit_s=5.0).send(ticket, 0, range(peer.NUM_BLOCKS))
    await process.wait()


async def test_blocks_of_another_size_or_out_of_range_are_not_sent(wire: Wire) -> None:
    source, target = Pool(4, 1000), Pool(4, 2000)
    receiver, sender = wire.receiver(target), wire.sender(source)

    with pytest.raises(ProtocolError, match="2000 bytes"):
        await sender.send(make_ticket(receiver, target, num_blocks=4), 0, [0])
    with pytest.raises(ProtocolError, match="blocks 3 to 5"):
        await sender.send(make_ticket(receiver, source, num_blocks=4), 3, [0, 1])


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_uvloop_carries_it_too(transport: Transport) -> None:
    async def transfer() -> None:
        async with Wire(transport) as wire:
            source, target = Pool(20, 1_234_567, seed=1), Pool(20, 1_234_567, seed=2)
            receiver, sender = wire.receiver(target), wire.sender(source)
            ticket: Ticket = make_ticket(receiver, target, num_blocks=20)
            receiver.open(ticket, range(20))
            await sender.send(ticket, 0, range(20))
            await sender.commit(ticket, Commit(1))
            assert target.content == source.content

    uvloop.run(transfer())
