"""Frames of a pool on a GPU that stay on it, for NCCL, which sends from one GPU's memory to another's.

A kernel copies pieces between the pool and a frame and sums them up on the way (`copy_summed`). Only the sums come to
the host, which waits for them: they go into the frame's header, or are compared with those there. A checksum of the
host's would need the bytes on the host, which costs more than sending them.

Streams, and what has to be true of blocks before they are copied, are as in `device_store`.
"""

import threading

import numpy as np
import torch

from engine.copy_stream import CopyStream
from engine.kernels.gpu.copy_summed import copy_summed
from kvtransfer.frame_buffers import DevicePayload
from kvtransfer.pieces import FRAME_BYTES, MAX_PIECES, Checksums, Numbers, Pieces

_WORD_BYTES = 8


class DeviceFrames:
    """Of blocks of `pool` `[N, ...]`, which is contiguous, and whose blocks are whole words."""

    def __init__(self, pool: torch.Tensor) -> None:
        assert pool.nbytes // len(pool) % _WORD_BYTES == 0, "blocks are whole words"
        self.device = pool.device
        self._words = pool.view(-1).view(torch.int64)
        self._out, self._in = _Copies(pool.device), _Copies(pool.device)

    def gather(self, pieces: Pieces, some: range) -> tuple[DevicePayload, Checksums]:
        """Copy pieces out of the pool, one after the other into a new frame; returned, nobody reads the pool for it."""
        at = slice(some.start, some.stop)
        size_words = pieces.size_bytes(some) // _WORD_BYTES
        frame, sums = self._out(self._words, pieces.begins[at], size_words, pieces.starts(some), pieces.sizes[at])
        return DevicePayload(frame.view(torch.uint8)), sums

    def scatter(self, pieces: Pieces, some: range, frame: torch.Tensor) -> Checksums:
        """Copy what lies one after the other in `frame` to where it belongs in the pool; returned or raised, nothing of
        it is written any more."""
        at = slice(some.start, some.stop)
        words = frame.view(torch.int64)
        _, sums = self._in(words, pieces.starts(some), self._words, pieces.begins[at], pieces.sizes[at])
        return sums


class _Copies:
    """Those in one direction, one at a time."""

    def __init__(self, device: torch.device) -> None:
        self._lock = threading.Lock()
        self._stream = CopyStream(device)
        self._device = device
        pinned = self._stream.on_gpu
        self._places = torch.zeros(3, MAX_PIECES, dtype=torch.int64, device="cpu", pin_memory=pinned)
        self._sums = torch.zeros(MAX_PIECES, dtype=torch.int64, device="cpu", pin_memory=pinned)
        with self._stream.copying():
            self._places_there = torch.zeros_like(self._places, device=device)
            self._sums_there = torch.zeros_like(self._sums, device=device)
        nothing = np.zeros(1, np.int64)
        self(self._sums_there, nothing, self._sums_there, nothing, nothing)  # compiles before a frame waits for it

    def __call__(
        self, source: torch.Tensor, begins: Numbers, target: torch.Tensor | int, starts: Numbers, sizes: Numbers
    ) -> tuple[torch.Tensor, Checksums]:
        """Places and sizes are in bytes. Into new memory where `target` is a number of words."""
        count = len(sizes)
        assert count <= MAX_PIECES
        assert sizes.sum() <= FRAME_BYTES
        with self._lock:
            for row, numbers in zip(self._places.numpy(), (begins, starts, sizes), strict=True):
                np.floor_divide(numbers, _WORD_BYTES, out=row[:count])
            with self._stream.copying():
                if isinstance(target, int):
                    target = torch.empty(target, dtype=torch.int64, device=self._device)
                self._places_there.copy_(self._places, non_blocking=True)
                places, sums = self._places_there[:, :count], self._sums_there[:count]
                copy_summed(source, places[0], target, places[1], places[2], sums)
                self._sums.copy_(self._sums_there, non_blocking=True)
            return target, self._sums[:count].numpy().view(np.uint64).copy()
