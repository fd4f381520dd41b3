"""A pool on a device beside the same bytes in the host's memory; on the GPU where tests run on one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cache import KVCache
from engine.copy_stream import CopyStream
from engine.gpu.cache import GpuCache
from kvtransfer.device_store import DeviceStore
from kvtransfer.host_store import HostStore
from kvtransfer.nccl import NcclSender
from kvtransfer.nccl_receiver import NcclReceiver
from kvtransfer.open_tickets import OpenTickets
from kvtransfer.pieces import FRAME_BYTES, PIECE_BYTES, Cut, Pieces
from kvtransfer.stores import store_of
from kvtransfer.transport import Arrived, BlockStore, Commit, Endpoint, KVReceiver, KVSender, Ticket
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from tests.gpu.engine.models import spec_of
from tests.kvtransfer.pools import Pool, make_ticket

NUM_BLOCKS = 6


class Twins:
    """The same blocks in both places."""

    def __init__(self, block_bytes: int, seed: int = 1) -> None:
        self.host = Pool(NUM_BLOCKS, block_bytes, seed=seed)
        content = np.frombuffer(bytearray(self.host.content), np.uint8).reshape(NUM_BLOCKS, block_bytes)
        self.pool = torch.from_numpy(content.copy()).to(torch.get_default_device())
        self.store = DeviceStore(self.pool)

    def bytes(self) -> bytes:
        """On the device."""
        return self.pool.cpu().numpy().tobytes()


def drawn(data: st.DataObject, block_bytes: int) -> tuple[Pieces, range]:
    blocks = data.draw(st.lists(st.integers(0, NUM_BLOCKS - 1), unique=True, min_size=1))
    pieces = Pieces(Cut(block_bytes), np.array(blocks))
    frames = list(pieces.frames())
    whole = data.draw(st.sampled_from(frames))
    first = data.draw(st.integers(whole.start, whole.stop - 1))
    return pieces, range(first, data.draw(st.integers(first + 1, whole.stop)))


sizes = st.sampled_from([1, 33, 5000, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 77])


@settings(max_examples=40, deadline=None)
@given(block_bytes=sizes, data=st.data())
def test_pieces_leave_a_device_as_they_leave_memory(block_bytes: int, data: st.DataObject) -> None:
    twins = Twins(block_bytes)
    pieces, some = drawn(data, block_bytes)
    frames = [np.zeros(FRAME_BYTES, np.uint8) for _ in range(2)]

    found = twins.store.gather(pieces, some, frames[0])
    expected = twins.host.gather(pieces, some, frames[1])

    assert found.tolist() == expected.tolist()
    assert (frames[0] == frames[1]).all()


@settings(max_examples=40, deadline=None)
@given(block_bytes=sizes, data=st.data())
def test_pieces_reach_a_device_as_they_reach_memory_and_nothing_else_changes(
    block_bytes: int, data: st.DataObject
) -> None:
    twins = Twins(block_bytes)
    pieces, some = drawn(data, block_bytes)
    frame = np.random.default_rng(2).integers(0, 256, pieces.size_bytes(some), np.uint8)

    found, expected = (store.scatter(pieces, some, frame) for store in (twins.store, twins.host))

    assert found.tolist() == expected.tolist()
    assert twins.bytes() == bytes(twins.host.content)


def test_both_directions_and_several_threads_do_not_disturb_each_other() -> None:
    twins = Twins(3 * PIECE_BYTES)
    pieces = Pieces(Cut(3 * PIECE_BYTES), np.arange(NUM_BLOCKS))
    frames = [np.zeros(FRAME_BYTES, np.uint8) for _ in range(2)]
    halves = range(3 * NUM_BLOCKS // 2), range(3 * NUM_BLOCKS // 2, 3 * NUM_BLOCKS)

    def back_and_forth(some: range, frame: "np.ndarray") -> None:
        for _ in range(10):
            twins.store.gather(pieces, some, frame)
            twins.store.scatter(pieces, some, frame)

    threads = [threading.Thread(target=back_and_forth, args=args) for args in zip(halves, frames, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert twins.bytes() == bytes(twins.host.content)


class Stream:
    """A stream of CUDA's that notes when it was waited for."""

    def __init__(self, device: torch.device) -> None:
        self.num_waits = 0

    def synchronize(self) -> None:
        self.num_waits += 1


def test_copies_are_waited_for_even_if_one_cannot_be_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[object] = []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(entered.append(stream)))
    copies = CopyStream(torch.device("cuda"))
    with copies.copying():
        (stream,) = entered
        assert isinstance(stream, Stream)
        assert stream.num_waits == 0
    assert stream.num_waits == 1

    with pytest.raises(ZeroDivisionError), copies.copying():
        _ = 1 // 0
    assert stream.num_waits == 2


def test_a_ticket_is_not_revoked_before_the_device_has_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    twins = Twins(PIECE_BYTES)
    begun, over = threading.Event(), threading.Event()

    @contextmanager
    def slow() -> Iterator[None]:
        yield
        begun.set()
        over.wait()

    monkeypatch.setattr(twins.store._in, "copying", slow)
    tickets = OpenTickets(PIECE_BYTES)
    ticket = make_ticket(Endpoint("zeromq", "nowhere"), twins.host, 1)
    tickets.open(ticket, [3])
    frame = np.zeros(PIECE_BYTES, np.uint8)
    expected = np.array([xxhash.xxh3_64_intdigest(frame.tobytes())], np.uint64)
    scatter = partial(twins.store.scatter, frame=frame)
    filling = threading.Thread(target=tickets.fill_pieces, args=(ticket.fence, 0, 0, expected, len(frame), scatter))
    revoking = threading.Thread(target=tickets.revoke, args=(ticket.fence.ticket_id,))
    filling.start()
    begun.wait()
    revoking.start()
    revoking.join(0.05)
    assert revoking.is_alive()

    over.set()
    revoking.join()
    filling.join()
    assert tickets.ids() == []
    assert not twins.pool[3].any()


@pytest.mark.gpu
def test_copies_do_not_wait_for_steps() -> None:
    device = torch.device("cuda")
    store = DeviceStore(torch.zeros(NUM_BLOCKS, PIECE_BYTES, dtype=torch.uint8, device=device))
    pieces, frame = Pieces(Cut(PIECE_BYTES), np.arange(NUM_BLOCKS)), np.ones(FRAME_BYTES, np.uint8)
    some = range(NUM_BLOCKS)
    torch.cuda.synchronize()
    torch.cuda._sleep(1 << 32)  # cycles, on the stream that computes
    computed = torch.cuda.Event()
    computed.record()

    store.scatter(pieces, some, frame[: pieces.size_bytes(some)])
    store.gather(pieces, some, frame)

    assert not computed.query()
    assert frame.all()
    assert store.pool.all()  # waits for the step, as it comes after it


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_blocks_of_a_gpu_and_of_a_cpu_are_the_same_bytes(dtype: torch.dtype) -> None:
    spec = spec_of()
    gpu = GpuCache(spec, 3, 16, torch.get_default_device(), dtype)
    with torch.device("cpu"):
        cpu = KVCache(spec, 4, 16, dtype=str(dtype).removeprefix("torch."))
    gpu.pool.normal_()
    here, there = store_of(cpu), store_of(gpu)
    assert (here.block_bytes, here.num_blocks, there.num_blocks) == (there.block_bytes, 4, 3)
    assert isinstance(here, HostStore)

    frame = np.zeros(FRAME_BYTES, np.uint8)
    out, into = (Pieces(Cut(here.block_bytes), np.array(blocks)) for blocks in ([2, 0], [1, 3]))
    some = range(len(out))
    sums = there.gather(out, some, frame)

    assert (here.scatter(into, some, frame[: out.size_bytes(some)]) == sums).all()
    assert torch.equal(cpu.pool[[1, 3]], gpu.pool[[2, 0]].cpu())


def sides(name: str, source: BlockStore, target: BlockStore, arrived: list[Arrived]) -> tuple[KVSender, KVReceiver]:
    address = "tcp://127.0.0.1:0"
    if name == "gloo":
        return NcclSender("gloo", source), NcclReceiver("gloo", address, target, arrived.append)
    return ZeroMQSender(source), ZeroMQReceiver(address, target, arrived.append)


async def send_four(sender: KVSender, receiver: KVReceiver, ticket: Ticket) -> None:
    """All blocks of a ticket of four, and the end of both sides."""
    await sender.send(ticket, 0, [2, 3])
    await sender.send(ticket, 2, [5, 0])
    await sender.commit(ticket, Commit(1))
    await sender.aclose()
    receiver.close()


@pytest.mark.parametrize("name", ["zeromq", "gloo"])
@pytest.mark.parametrize("places", ["host to device", "device to host", "device to device"])
async def test_a_ticket_goes_from_one_kind_of_pool_to_another(name: str, places: str) -> None:
    source, target = Twins(PIECE_BYTES + 4096, seed=1), Twins(PIECE_BYTES + 4096, seed=2)
    stores = [
        twins.store if place == "device" else twins.host
        for twins, place in zip((source, target), places.split(" to "), strict=True)
    ]
    arrived: list[Arrived] = []
    sender, receiver = sides(name, stores[0], stores[1], arrived)
    ticket = make_ticket(receiver, target.host, 4)
    receiver.open(ticket, [5, 1, 0, 3])

    await send_four(sender, receiver, ticket)

    assert len(arrived) == 1
    if places.endswith("device"):
        target.host.content[:] = target.bytes()
    assert target.host.blocks([5, 1, 0, 3]) == source.host.blocks([2, 3, 5, 0])
    assert target.host.blocks([2, 4]) == Pool(NUM_BLOCKS, PIECE_BYTES + 4096, seed=2).blocks([2, 4])
