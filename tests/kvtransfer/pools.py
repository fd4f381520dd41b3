"""Pools, tickets and transports for the transfer tests."""

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch

from engine.shared_memory import SharedMemory
from kvtransfer.cuda_ipc import DeviceMemory
from kvtransfer.device_store import DeviceStore
from kvtransfer.endpoints import CUDA_IPC, shm_address
from kvtransfer.host_store import HostStore
from kvtransfer.inproc import Hub, InprocReceiver, InprocSender
from kvtransfer.link import Frame
from kvtransfer.nccl import NcclSender
from kvtransfer.nccl_receiver import NcclReceiver
from kvtransfer.pieces import Bytes, Checksums, Pieces
from kvtransfer.receiver import ANY_TOKEN
from kvtransfer.shm import ShmSender
from kvtransfer.shm_receiver import ShmReceiver
from kvtransfer.transport import Arrived, BlockStore, Endpoint, Fence, KVReceiver, KVSender, Ticket, TicketId
from kvtransfer.zeromq import ZeroMQSender
from kvtransfer.zeromq_receiver import ZeroMQReceiver
from tests.kvtransfer.lent_by_cpus import lending

Transport = Literal["inproc", "shm", "shm-gpu", "zeromq-tcp", "zeromq-ipc", "zeromq-gpu", "gloo-tcp", "gloo-ipc"]
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
"""zeromq-gpu is zeromq-ipc between pools that are handled as a GPU's are, and shm-gpu, which is cuda-ipc, between such
whose memory files stand for CUDA's handles."""
BETWEEN_PROCESSES = TRANSPORTS[1:]


def name_of(transport: str) -> str:
    """What endpoints call it."""
    return CUDA_IPC if transport == "shm-gpu" else transport.partition("-")[0]


PERIOD_BYTES = 1_000_003
"""A prime, so that no two blocks are alike although the pattern repeats."""


class Pool(HostStore):
    """Blocks filled with random bytes; `on_view` is told how often a transport asked for them before each new time."""

    def __init__(self, num_blocks: int, block_bytes: int, seed: int = 0) -> None:
        self.block_bytes = block_bytes
        self.num_blocks = num_blocks
        size_bytes = num_blocks * block_bytes
        tile = random.Random(seed).randbytes(min(size_bytes, PERIOD_BYTES))
        self.content: bytearray | memoryview = bytearray(tile * (size_bytes // len(tile) + 1))[:size_bytes]
        self.on_view: Callable[[int], None] = lambda _: None
        self._num_views = 0

    def share(self) -> SharedMemory:
        """Move the bytes to where another process can map them."""
        shared = SharedMemory(len(self.content))
        shared.buffer[:] = self.content
        self.content = shared.buffer
        return shared

    @property
    def memory(self) -> memoryview:
        self.on_view(self._num_views)
        self._num_views += 1
        return memoryview(self.content)

    def block(self, block: int) -> bytes:
        return bytes(self.content[block * self.block_bytes : (block + 1) * self.block_bytes])

    def blocks(self, blocks: Sequence[int]) -> list[bytes]:
        return [self.block(block) for block in blocks]

    def overwrite(self, blocks: Sequence[int], byte: int) -> None:
        for block in blocks:
            start = block * self.block_bytes
            self.content[start : start + self.block_bytes] = bytes([byte]) * self.block_bytes


class OnDevice(DeviceStore):
    """The bytes of `pool` as those of a GPU's, on the CPU; a copy is told of as the pool itself does."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(torch.frombuffer(pool.content, dtype=torch.uint8).view(pool.num_blocks, pool.block_bytes))
        self._pool = pool

    def gather(self, pieces: Pieces, some: range, frame: Bytes) -> Checksums:
        _ = self._pool.memory
        return super().gather(pieces, some, frame)

    def scatter(self, pieces: Pieces, some: range, frame: Bytes) -> Checksums:
        _ = self._pool.memory
        return super().scatter(pieces, some, frame)

    @property
    def blocks(self) -> torch.Tensor:
        _ = self._pool.memory
        return super().blocks


class Telling(ShmSender):
    """Tells of each frame: who is sent to copies the blocks."""

    pool: "Pool"

    def _frames(self, ticket: Ticket, first: int, source_blocks: Sequence[int]) -> Iterator[Frame]:
        frames = super()._frames(ticket, first, source_blocks)
        while True:
            _ = self.pool.memory
            if (frame := next(frames, None)) is None:
                return
            yield frame


def make_ticket(
    receiver: KVReceiver | Endpoint, pool: Pool, num_blocks: int, *, name: str = "t", first_block: int = 0
) -> Ticket:
    endpoint = receiver if isinstance(receiver, Endpoint) else receiver.endpoint
    fence = Fence(TicketId(name), incarnation="i", attempt=1)
    return Ticket(fence, "decode-0", num_blocks, first_block, pool.block_bytes, "layout", (endpoint,))


def refenced(ticket: Ticket, **changes: str | int) -> Ticket:
    """The same ticket under another attempt or incarnation."""
    return replace(ticket, fence=replace(ticket.fence, **changes))  # type: ignore[arg-type]


class Wire(AsyncExitStack):
    """Makes the two sides of one transport and closes them at the end."""

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self.transport = transport
        self.arrived: list[Arrived] = []
        self._hub = Hub()
        self._directory = Path(self.enter_context(tempfile.TemporaryDirectory()))
        self._num_paths = 0
        self._files = self.enter_context(lending())

    def receiver(self, pool: Pool, *, vocab_size: int = ANY_TOKEN) -> KVReceiver:
        receiver: KVReceiver
        if self.transport == "inproc":
            receiver = InprocReceiver(self._hub, pool, self.arrived.append, vocab_size=vocab_size)
        elif self.transport.startswith("shm"):
            receiver = ShmReceiver(self._local(pool), self.arrived.append, vocab_size=vocab_size)
        elif self.transport.startswith("gloo"):
            receiver = NcclReceiver("gloo", self.address(), pool, self.arrived.append, vocab_size=vocab_size)
        else:
            receiver = ZeroMQReceiver(self.address(), self._store(pool), self.arrived.append, vocab_size=vocab_size)
        self.callback(receiver.close)
        return receiver

    def sender(self, pool: Pool, *, stall_limit_s: float = 10.0) -> KVSender:
        sender: KVSender
        if self.transport == "inproc":
            sender = InprocSender(self._hub, pool)
        elif self.transport.startswith("shm"):
            sender = self._telling(pool, stall_limit_s)
        elif self.transport.startswith("gloo"):
            sender = NcclSender("gloo", pool, stall_limit_s=stall_limit_s)
        else:
            sender = ZeroMQSender(self._store(pool), stall_limit_s=stall_limit_s)
        self.push_async_callback(sender.aclose)
        return sender

    def _telling(self, pool: Pool, stall_limit_s: float) -> ShmSender:
        shared = pool.share()
        store = self._local(pool)
        memory: SharedMemory | DeviceMemory = shared
        if isinstance(store, OnDevice):
            self._files.add(store.pool, shared)
            memory = DeviceMemory(store.pool)
        sender = Telling(store, memory, stall_limit_s=stall_limit_s)
        sender.pool = pool
        return sender

    def _local(self, pool: Pool) -> Pool | OnDevice:
        return OnDevice(pool) if self.transport == "shm-gpu" else pool

    def _store(self, pool: Pool) -> BlockStore:
        return OnDevice(pool) if self.transport.endswith("gpu") else pool

    def address(self) -> str:
        """One to listen at over ZeroMQ."""
        self._num_paths += 1
        return (
            "tcp://127.0.0.1:0" if self.transport.endswith("tcp") else f"ipc://{self._directory}/kv-{self._num_paths}"
        )

    def unused_endpoint(self) -> Endpoint:
        """Where nobody listens, now or later."""
        if self.transport == "inproc":
            return Endpoint("inproc", "nowhere")
        if self.transport.startswith("shm"):
            return Endpoint(name_of(self.transport), shm_address("nowhere"))
        receiver = ZeroMQReceiver(self.address(), Pool(1, 1), self.arrived.append)
        receiver.close()
        return Endpoint(self.transport.partition("-")[0], receiver.endpoint.address)
