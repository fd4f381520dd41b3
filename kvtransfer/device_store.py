"""A pool on a GPU, as transports see it: its bytes go into frames, and come out of them, through pinned memory.

    out   pool -> pinned memory, on a stream of its own, waited for; -> frame, with checksums
    in    frame -> pinned memory, with checksums; -> pool, on another stream of its own, waited for

Neither waits for the stream that computes, nor makes it wait. That needs two things of those who call. Blocks that are
sent were computed: a worker reports them after the step that did it was waited for. And blocks that are written are
nobody else's: they were freed after a step that was waited for, and are read by none before their ticket is complete.

The host waits for a copy before a frame is sent or answered, and a receiver copies under the lock that `revoke` takes:
so nothing of a revoked ticket is written later, and what has arrived is there before the step loop hears of it.

On a CPU's tensors the same code runs without streams and pinning.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.copy_stream import CopyStream
from kvtransfer.pieces import FRAME_BYTES, Bytes, Checksums, Pieces


class DeviceStore:
    """Blocks of `pool` `[N, ...]`, which is contiguous."""

    def __init__(self, pool: torch.Tensor) -> None:
        self.pool = pool
        self.num_blocks = len(pool)
        self.block_bytes = pool.nbytes // len(pool)
        self._bytes = pool.view(-1).view(torch.uint8)
        self._out, self._in = _Staging(pool.device), _Staging(pool.device)

    @property
    def blocks(self) -> torch.Tensor:
        """Their bytes, `[N, block_bytes]`."""
        return self._bytes.view(self.num_blocks, self.block_bytes)

    @contextmanager
    def copying_in(self) -> Iterator[None]:
        """What is begun within, on the stream of what comes in, is over behind; one user at a time."""
        with self._in.lock, self._in.copying():
            yield

    def gather(self, pieces: Pieces, some: range, frame: Bytes) -> Checksums:
        """As every `BlockStore`'s."""
        with self._out.lock:
            with self._out.copying():
                for run in pieces.runs(some):
                    staged = self._out.tensor[run.start : run.start + run.size_bytes]
                    staged.copy_(self._bytes[run.begin : run.begin + run.size_bytes], non_blocking=True)
            return pieces.copy(some, self._out.bytes, frame, to_memory=False)

    def scatter(self, pieces: Pieces, some: range, frame: Bytes) -> Checksums:
        """As every `BlockStore`'s."""
        assert pieces.size_bytes(some) <= FRAME_BYTES
        with self._in.lock:
            checksums = pieces.copy(some, frame, self._in.bytes, to_memory=True)
            with self._in.copying():
                for run in pieces.runs(some):
                    staged = self._in.tensor[run.start : run.start + run.size_bytes]
                    self._bytes[run.begin : run.begin + run.size_bytes].copy_(staged, non_blocking=True)
            return checksums


class _Staging:
    """Room for one frame that a GPU reads and writes by itself, and the stream for it: one user at a time."""

    def __init__(self, device: torch.device) -> None:
        stream = CopyStream(device)
        self.lock = threading.Lock()
        self.copying = stream.copying
        self.tensor = torch.empty(FRAME_BYTES, dtype=torch.uint8, device="cpu", pin_memory=stream.on_gpu)
        self.bytes: Bytes = self.tensor.numpy()
