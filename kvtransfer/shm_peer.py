"""One sender as a receiver sees it: its connection, and its pool mapped read-only."""

import contextlib
import fcntl
import mmap
import os
import select
import socket
from collections.abc import Sequence

import numpy as np

from engine.kernels.copy_blocks import copy_blocks
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


class Peer:
    """Belongs to the receiver's thread."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self._blocks: Bytes | None = None  # [source blocks, bytes of a block]
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
        if self._blocks is not None or len(filenos) != 1:
            raise Refused(pb.NACK_REASON_MALFORMED, "one pool is attached once, with its descriptor")
        if attach.block_bytes != block_bytes or attach.size_bytes < block_bytes:
            why = f"{attach.size_bytes} bytes in blocks of {attach.block_bytes}, this pool's are {block_bytes}"
            raise Refused(pb.NACK_REASON_MALFORMED, why)
        num_blocks = attach.size_bytes // block_bytes
        try:
            _check_whole(filenos[0], attach.size_bytes)
            mapping = mmap.mmap(filenos[0], attach.size_bytes, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
        except (OSError, ValueError, OverflowError) as error:
            raise Refused(pb.NACK_REASON_MALFORMED, f"cannot map the memory: {error}") from error
        blocks: Bytes = np.frombuffer(mapping, np.uint8, count=num_blocks * block_bytes)
        self._blocks = blocks.reshape(num_blocks, block_bytes)

    def check(self, sources: Numbers) -> None:
        """Refuse blocks that the sender's pool does not have."""
        if self._blocks is None:
            raise Refused(pb.NACK_REASON_MALFORMED, "no memory is attached")
        if (largest := sources.max()) >= len(self._blocks):
            raise Refused(pb.NACK_REASON_MALFORMED, f"block {largest} of a pool of {len(self._blocks)}")

    def copy(self, sources: Numbers, target: memoryview, slots: Numbers) -> None:
        """Copy what was checked, without the interpreter's lock: the step's thread goes on meanwhile."""
        assert self._blocks is not None
        blocks = np.frombuffer(target, np.uint8).reshape(-1, self._blocks.shape[1])
        copy_blocks(self._blocks, sources, blocks, slots)
        if self._hangup.poll(0):
            raise Refused(pb.NACK_REASON_STALE, "the sender left while its blocks were read")

    def close(self) -> None:
        self.connection.close()
        self._blocks = None  # unmaps


def _check_whole(fileno: int, size_bytes: int) -> None:
    """Raise OSError unless the file can neither shrink nor has holes: reading it then never faults."""
    seals = fcntl.fcntl(fileno, fcntl.F_GET_SEALS)
    status = os.fstat(fileno)
    if not seals & fcntl.F_SEAL_SHRINK:
        raise OSError("it is not sealed against shrinking")
    if status.st_size < size_bytes or status.st_blocks * STAT_BLOCK_BYTES < size_bytes:
        raise OSError(f"it has {status.st_blocks * STAT_BLOCK_BYTES} bytes, {size_bytes} were announced")
