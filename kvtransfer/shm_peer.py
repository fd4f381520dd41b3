"""One sender as a receiver sees it: its connection, and its pool, which is mapped."""

import contextlib
import fcntl
import mmap
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from engine.errors import TransferFailed
from engine.kernels.copy_blocks import copy_blocks
from kvtransfer.cuda_ipc import BorrowedPool
from kvtransfer.device_store import DeviceStore
from kvtransfer.host_store import HostStore
from kvtransfer.open_tickets import Refused
from kvtransfer.pieces import Bytes, Numbers
from kvtransfer.wire import MAX_HEADER_BYTES
from protos import kvtransfer_pb2 as pb

MAX_DESCRIPTORS = 4
STAT_BLOCK_BYTES = 512


class Descriptor:
    """Somebody else's file, closed at the end of `with`."""

    def __init__(self, fileno: int) -> None:
        self.fileno = fileno

    def __enter__(self) -> "Descriptor":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fileno)


class Mapped(Protocol):
    """A sender's pool."""

    num_blocks: int

    def copy(self, sources: Numbers, slots: Numbers) -> None:
        """Copy its blocks into the receiver's pool; returned, they are copied."""


Map = Callable[[pb.Attach, Sequence[int]], Mapped]
"""Maps what a sender attaches, with the descriptors that came along. Raises Refused."""


class Peer:
    """Belongs to the receiver's thread."""

    def __init__(self, connection: socket.socket, map_pool: Map) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._map = map_pool
        self._pool: Mapped | None = None
        self._hangup = select.poll()
        self._hangup.register(connection, select.POLLRDHUP)

    def receive(self) -> tuple[bytes, list[Descriptor]] | None:
        """The next message with the descriptors that came along; None at the end of the connection."""
        try:
            data, filenos, flags, _ = socket.recv_fds(
                self.connection, MAX_HEADER_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return b"", []
        except OSError:
            return None
        descriptors = [Descriptor(fileno) for fileno in filenos]
        if data:
            return (b"" if flags & socket.MSG_TRUNC else data), descriptors
        for descriptor in descriptors:
            os.close(descriptor.fileno)
        return None

    def answer(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # gone, or it does not read its answers and will stall
            self.connection.send(data)

    def attach(self, attach: pb.Attach, filenos: Sequence[int], block_bytes: int) -> None:
        """Map the sender's pool. Raises Refused for what could fault, or is not shaped like this side's."""
        if self._pool is not None:
            raise Refused(pb.NACK_REASON_MALFORMED, "one pool is attached once")
        if attach.block_bytes != block_bytes or attach.size_bytes < block_bytes:
            why = f"{attach.size_bytes} bytes in blocks of {attach.block_bytes}, this pool's are {block_bytes}"
            raise Refused(pb.NACK_REASON_MALFORMED, why)
        self._pool = self._map(attach, filenos)

    def check(self, sources: Numbers) -> None:
        """Refuse blocks that the sender's pool does not have."""
        if self._pool is None:
            raise Refused(pb.NACK_REASON_MALFORMED, "no memory is attached")
        if (largest := sources.max()) >= self._pool.num_blocks:
            raise Refused(pb.NACK_REASON_MALFORMED, f"block {largest} of a pool of {self._pool.num_blocks}")

    def copy(self, sources: Numbers, slots: Numbers) -> None:
        """Copy what was checked, without the interpreter's lock: the step's thread goes on meanwhile."""
        assert self._pool is not None
        self._pool.copy(sources, slots)
        if self._hangup.poll(0):
            raise Refused(pb.NACK_REASON_STALE, "the sender left while its blocks were read")

    def close(self) -> None:
        self.connection.close()
        self._pool = None  # unmaps


class MappedMemory:
    """A sender's pool in the host's memory, read-only."""

    def __init__(self, attach: pb.Attach, filenos: Sequence[int], store: HostStore) -> None:
        """To be copied into `store`. Raises Refused."""
        if len(filenos) != 1:
            raise Refused(pb.NACK_REASON_MALFORMED, "a pool comes with its descriptor")
        self._store = store
        self.num_blocks = attach.size_bytes // store.block_bytes
        try:
            _check_whole(filenos[0], attach.size_bytes)
            mapping = mmap.mmap(filenos[0], attach.size_bytes, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
        except (OSError, ValueError, OverflowError) as error:
            raise Refused(pb.NACK_REASON_MALFORMED, f"cannot map the memory: {error}") from error
        blocks: Bytes = np.frombuffer(mapping, np.uint8, count=self.num_blocks * store.block_bytes)
        self._blocks = blocks.reshape(self.num_blocks, store.block_bytes)

    def copy(self, sources: Numbers, slots: Numbers) -> None:
        """As every `Mapped`'s."""
        own = np.frombuffer(self._store.memory, np.uint8).reshape(-1, self._store.block_bytes)
        copy_blocks(self._blocks, sources, own, slots)


def map_into(store: HostStore | DeviceStore) -> Map:
    """Of pools that lie where `store` does."""

    def map_pool(attach: pb.Attach, filenos: Sequence[int]) -> Mapped:
        if isinstance(store, HostStore):
            return MappedMemory(attach, filenos, store)
        if not attach.HasField("cuda"):
            raise Refused(pb.NACK_REASON_MALFORMED, "the pool is not on a GPU, and this one is")
        try:
            return BorrowedPool(attach.cuda, attach.size_bytes, store)
        except TransferFailed as error:
            raise Refused(pb.NACK_REASON_MALFORMED, error.message) from error

    return map_pool


def _check_whole(fileno: int, size_bytes: int) -> None:
    """Raise OSError unless the file can neither shrink nor has holes: reading it then never faults."""
    seals = fcntl.fcntl(fileno, fcntl.F_GET_SEALS)
    status = os.fstat(fileno)
    if not seals & fcntl.F_SEAL_SHRINK:
        raise OSError("it is not sealed against shrinking")
    if status.st_size < size_bytes or status.st_blocks * STAT_BLOCK_BYTES < size_bytes:
        raise OSError(f"it has {status.st_blocks * STAT_BLOCK_BYTES} bytes, {size_bytes} were announced")
