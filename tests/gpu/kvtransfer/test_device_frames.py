"""Frames that stay on a device, as NCCL has them: with gloo in its place, in Triton's interpreter."""

import os
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import numpy as np
import pytest
import torch

from engine.config import WorkerConfig
from engine.errors import ConfigError, TransferFailed
from kvtransfer.device_frames import DeviceFrames
from kvtransfer.frame_buffers import DevicePayload
from kvtransfer.nccl import NcclSender
from kvtransfer.nccl_receiver import NcclReceiver
from kvtransfer.pieces import FRAME_BYTES, PIECE_BYTES, Checksums, Cut, Pieces
from kvtransfer.stores import device_frames_of
from kvtransfer.transport import Arrived, Commit, Ticket
from tests.gpu.kvtransfer.test_device_store import NUM_BLOCKS, Twins
from tests.kvtransfer.pools import make_ticket, refenced

BLOCK_BYTES = PIECE_BYTES + 4096
ADDRESS = "tcp://127.0.0.1:0"
between_cpus = pytest.mark.skipif(os.environ["TRITON_INTERPRET"] == "0", reason="gloo takes no GPU's memory")


@pytest.mark.parametrize("block_bytes", [8, 5000, BLOCK_BYTES])
def test_pieces_leave_and_reach_a_pool_and_both_sides_sum_them_alike(block_bytes: int) -> None:
    source, target = Twins(block_bytes, seed=1), Twins(block_bytes, seed=2)
    out, into = (Pieces(Cut(block_bytes), np.array(blocks)) for blocks in ([4, 0, 5], [1, 2, 3]))
    some = range(1, len(out))
    expected = np.zeros(FRAME_BYTES, np.uint8)
    source.host.gather(out, some, expected)

    payload, sent = DeviceFrames(source.pool).gather(out, some)
    frame = payload.tensor(out.size_bytes(some))
    came = DeviceFrames(target.pool).scatter(into, some, frame)
    target.host.scatter(into, some, expected[: out.size_bytes(some)])

    assert (frame.cpu().numpy() == expected[: len(frame)]).all()
    assert target.bytes() == bytes(target.host.content)
    assert sent.tolist() == came.tolist()
    frame[len(frame) - 1] ^= 1
    altered = DeviceFrames(target.pool).scatter(into, some, frame)
    assert (altered != sent).tolist() == [False] * (len(some) - 1) + [True]


def test_a_pool_of_the_host_has_no_group_of_gpus() -> None:
    twins = Twins(64)

    assert device_frames_of("gloo", twins.host) is None
    assert device_frames_of("gloo", twins.store) is None
    assert isinstance(device_frames_of("nccl", twins.store), DeviceFrames)
    with pytest.raises(ConfigError, match="--device cuda") as refused:
        device_frames_of("nccl", twins.host)
    assert refused.value.field in WorkerConfig.model_fields


class InTurns(DeviceFrames):
    """The interpreter is not made for two threads."""

    _turn = threading.Lock()

    def gather(self, pieces: Pieces, some: range) -> tuple[DevicePayload, Checksums]:
        with self._turn:
            return super().gather(pieces, some)

    def scatter(self, pieces: Pieces, some: range, frame: torch.Tensor) -> Checksums:
        with self._turn:
            return super().scatter(pieces, some, frame)


class Rig(AsyncExitStack):
    """Two pools, a sender and a receiver between which frames never lie in numpy's arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = Twins(BLOCK_BYTES, seed=1), Twins(BLOCK_BYTES, seed=2)
        self.arrived: list[Arrived] = []
        frames = InTurns(self.target.pool)
        self.receiver = NcclReceiver("gloo", ADDRESS, self.target.store, self.arrived.append, frames=frames)
        self.callback(self.receiver.close)
        self.sender = NcclSender("gloo", self.source.store, frames=InTurns(self.source.pool))
        self.push_async_callback(self.sender.aclose)

    def ticket(self, *, attempt: int = 1) -> Ticket:
        return refenced(make_ticket(self.receiver, self.target.host, 4), attempt=attempt)

    def came(self, slots: list[int]) -> list[bytes]:
        return [self.target.pool[slot].numpy().tobytes() for slot in slots]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig() as rig:
        yield rig


@between_cpus
async def test_a_ticket_goes_from_pool_to_pool(rig: Rig) -> None:
    ticket = rig.ticket()
    rig.receiver.open(ticket, [5, 1, 0, 3])

    await rig.sender.send(ticket, 0, [2, 3])
    await rig.sender.send(ticket, 2, [5, 0])
    await rig.sender.commit(ticket, Commit(7))

    assert [arrived.commit.first_token for arrived in rig.arrived] == [7]
    assert rig.came([5, 1, 0, 3]) == rig.source.host.blocks([2, 3, 5, 0])
    assert rig.came([2, 4]) == rig.target.host.blocks([2, 4])


@between_cpus
async def test_what_is_fenced_out_or_revoked_writes_nothing(rig: Rig) -> None:
    before = rig.came(list(range(NUM_BLOCKS)))
    rig.receiver.open(rig.ticket(attempt=2), range(4))
    with pytest.raises(TransferFailed, match="the open ticket is"):
        await rig.sender.send(rig.ticket(attempt=1), 0, range(4))
    rig.receiver.revoke(rig.ticket().fence.ticket_id)
    with pytest.raises(TransferFailed, match="no such ticket"):
        await rig.sender.send(rig.ticket(attempt=2), 0, range(4))

    assert rig.came(list(range(NUM_BLOCKS))) == before
    assert rig.receiver.fenced_writes == 2


@between_cpus
async def test_bytes_that_change_on_their_way_are_corrupt(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def altered(payload: DevicePayload, size_bytes: int) -> torch.Tensor:
        frame = payload._frame[:size_bytes]
        frame[PIECE_BYTES + 1] ^= 4
        return frame

    monkeypatch.setattr(DevicePayload, "tensor", altered)
    rig.receiver.open(rig.ticket(), range(4))
    with pytest.raises(TransferFailed, match="CORRUPT"):
        await rig.sender.send(rig.ticket(), 0, range(4))
    with pytest.raises(TransferFailed, match="1 pieces never came"):
        await rig.sender.commit(rig.ticket(), Commit(1))
    monkeypatch.undo()
    await rig.sender.send(rig.ticket(), 0, range(4))
    await rig.sender.commit(rig.ticket(), Commit(1))

    assert rig.came([0, 1, 2, 3]) == rig.source.host.blocks(range(4))
