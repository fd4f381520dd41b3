"""Pools of GPUs that are lent and borrowed, by files in the place of CUDA's handles: what cannot be, and who else
carries the blocks then. What goes well: `test_contract`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.config import WorkerConfig
from engine.errors import TransferFailed
from kvtransfer.cuda_ipc import BorrowedPool, DeviceMemory
from kvtransfer.device_store import DeviceStore
from kvtransfer.endpoints import CUDA_IPC, SHM, Senders
from kvtransfer.shm import ShmSender
from kvtransfer.shm_receiver import ShmReceiver
from kvtransfer.stores import can_lend
from kvtransfer.transport import Arrived, Commit, Ticket, Unreachable
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from tests.kvtransfer import lending_peer
from tests.kvtransfer.lent_by_cpus import lending
from tests.kvtransfer.pools import OnDevice, Pool, make_ticket

NUM_BLOCKS = 4
BLOCK_BYTES = 70_000


class Rig(AsyncExitStack):
    """Two pools, and ways between them; all of it is closed at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.files = self.enter_context(lending())
        self.source, self.target = Pool(NUM_BLOCKS, BLOCK_BYTES, seed=1), Pool(NUM_BLOCKS, BLOCK_BYTES, seed=2)
        self.shared = self.source.share()
        self.here, self.there = OnDevice(self.source), OnDevice(self.target)
        self.arrived: list[Arrived] = []
        self.receiver = ShmReceiver(self.there, self.arrived.append)
        self.callback(self.receiver.close)
        self.zeromq = ZeroMQReceiver("tcp://127.0.0.1:0", self.there, self.arrived.append)
        self.callback(self.zeromq.close)

    def sender(self) -> ShmSender:
        sender = ShmSender(self.here, DeviceMemory(self.here.pool), stall_limit_s=5.0)
        self.push_async_callback(sender.aclose)
        return sender

    def ticket(self) -> Ticket:
        """Open on both receivers."""
        ticket = make_ticket(self.receiver, self.target, NUM_BLOCKS)
        ticket = replace(ticket, endpoints=(self.receiver.endpoint, self.zeromq.endpoint))
        for receiver in (self.receiver, self.zeromq):
            receiver.open(ticket, range(NUM_BLOCKS))
        return ticket

    async def comes_another_way(self, sender: ShmSender, ticket: Ticket) -> None:
        other = ZeroMQSender(self.here)
        self.push_async_callback(other.aclose)
        senders = Senders({CUDA_IPC: sender, "zeromq": other})
        await senders.send(ticket, 0, range(NUM_BLOCKS))
        await senders.commit(ticket, Commit(1))
        assert self.target.blocks(range(NUM_BLOCKS)) == self.source.blocks(range(NUM_BLOCKS))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig() as rig:
        yield rig


async def test_memory_that_is_not_lent_goes_another_way(rig: Rig) -> None:
    sender, ticket = rig.sender(), rig.ticket()

    with pytest.raises(
        Unreachable, match="the GPU's memory is not lent: CUDA error: there is no handle of this memory$"
    ):
        await sender.send(ticket, 0, range(NUM_BLOCKS))

    await rig.comes_another_way(sender, ticket)


async def test_memory_that_cannot_be_mapped_goes_another_way(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: peer access is not supported between these two devices")

    rig.files.add(rig.here.pool, rig.shared)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared_cuda", fails)

    await rig.comes_another_way(rig.sender(), rig.ticket())


async def test_less_memory_than_was_announced_is_refused(rig: Rig) -> None:
    rig.files.add(rig.here.pool, rig.shared)
    lent = DeviceMemory(rig.here.pool).lend()

    with pytest.raises(TransferFailed, match=f"{NUM_BLOCKS * BLOCK_BYTES} bytes are lent"):
        BorrowedPool(lent, NUM_BLOCKS * BLOCK_BYTES + 1, rig.there)


async def test_a_pool_of_the_host_is_not_attached_to_that_of_a_gpu(rig: Rig) -> None:
    sender = ShmSender(rig.source, rig.shared, stall_limit_s=5.0)
    rig.push_async_callback(sender.aclose)
    as_shm = replace(rig.ticket(), endpoints=(replace(rig.receiver.endpoint, transport=SHM),))

    with pytest.raises(TransferFailed, match="the pool is not on a GPU, and this one is"):
        await sender.send(as_shm, 0, [0])


async def test_a_lender_killed_amid_a_ticket_leaves_it_open_and_another_fills_it(rig: Rig) -> None:
    ticket = rig.ticket()
    await lent_and_killed(rig.receiver, "cpu")
    assert rig.target.block(0) == bytes([lending_peer.BYTE]) * BLOCK_BYTES
    assert list(rig.receiver.open_tickets) == [ticket.fence.ticket_id]

    rig.files.add(rig.here.pool, rig.shared)
    sender = rig.sender()
    await sender.send(ticket, 0, range(NUM_BLOCKS))
    await sender.commit(ticket, Commit(3))

    assert [arrived.commit.first_token for arrived in rig.arrived] == [3]
    assert rig.target.blocks(range(NUM_BLOCKS)) == rig.source.blocks(range(NUM_BLOCKS))


async def lent_and_killed(receiver: ShmReceiver, device: str) -> None:
    """Another process sends the first block of a ticket, and is killed."""
    command = [sys.executable, "-m", "tests.kvtransfer.lending_peer", receiver.endpoint.address, device]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout
    assert await process.stdout.readline() == b"sent\n"
    process.kill()
    await process.wait()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("lender", [0, 1])
async def test_a_process_reads_what_another_has_on_a_gpu(lender: int) -> None:
    if lender >= torch.cuda.device_count():
        pytest.skip("there is one GPU")
    pool = torch.zeros(NUM_BLOCKS, BLOCK_BYTES, dtype=torch.uint8, device="cuda:0")
    receiver = ShmReceiver(DeviceStore(pool), lambda _: None)
    receiver.open(make_ticket(receiver, Pool(NUM_BLOCKS, BLOCK_BYTES), NUM_BLOCKS), [2, 0, 1, 3])

    await lent_and_killed(receiver, f"cuda:{lender}")

    receiver.close()
    assert (pool[2] == lending_peer.BYTE).all()
    assert not pool[[0, 1, 3]].any()


def test_a_pool_that_torch_cannot_lend_is_said_in_words() -> None:
    with pytest.raises(TransferFailed, match="the GPU's memory is not lent"):
        DeviceMemory(torch.zeros(4, 8)).lend()


def test_only_pools_of_gpus_are_lent_and_only_if_memory_may_be_shared() -> None:
    store = DeviceStore(torch.zeros(4, 8))

    assert not can_lend(store, WorkerConfig())
    store.pool = torch.zeros(4, 8, device="meta")
    assert not can_lend(store, WorkerConfig())
    store.pool = OfGpu()  # type: ignore[assignment]
    assert can_lend(store, WorkerConfig())
    assert not can_lend(store, WorkerConfig(shared_memory="off"))


class OfGpu:
    is_cuda = True
