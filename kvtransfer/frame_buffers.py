"""Memory for the payloads of frames, used again and again: new memory costs a page fault for every 4 KiB."""

import mmap
from typing import Protocol

import numpy as np
import torch
import zmq

from kvtransfer.pieces import FRAME_BYTES, Bytes

MIN_KEPT_BYTES = FRAME_BYTES // 4
"""Smaller payloads get memory of their own size, which is not kept: many of them may be under way at once."""
MAX_PARTS = 16
"""Of different sizes, that are kept for one buffer."""


class Payload(Protocol):
    """One frame's bytes, until its receiver has them."""

    def tensor(self, size_bytes: int) -> torch.Tensor:
        """The first of them, without a copy, where they lie."""

    def release(self) -> None:
        """The receiver has read all of it."""


class FrameBuffers:
    """The buffers of one sender; at most `max_free` of them are kept while nobody needs them."""

    def __init__(self, max_free: int) -> None:
        self._max_free = max_free
        self._free: list[FrameBuffer] = []

    def take(self, size_bytes: int) -> "FrameBuffer":
        """The one used last if one is free: its bytes are the likeliest to be in a cache."""
        if size_bytes < MIN_KEPT_BYTES:
            return FrameBuffer(self, size_bytes)
        return self._free.pop() if self._free else FrameBuffer(self, FRAME_BYTES)

    def give(self, buffer: "FrameBuffer") -> None:
        if len(buffer.bytes) == FRAME_BYTES and len(self._free) < self._max_free:
            self._free.append(buffer)


class FrameBuffer:
    """One frame's payload, that libzmq reads where it is; whoever drops it does not take it from libzmq."""

    def __init__(self, owner: FrameBuffers, size_bytes: int) -> None:
        self._owner = owner
        memory = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        self.bytes: Bytes = np.frombuffer(memory, np.uint8)
        self._parts: dict[int, zmq.Frame] = {}

    def part(self, size_bytes: int) -> zmq.Frame:
        """The first bytes as a message's part. Mostly one made before: pyzmq has a thread that is told when libzmq is
        done with a part, which takes longer than sending it. Frames are of few sizes: full, or a ticket's last."""
        if (part := self._parts.get(size_bytes)) is None:
            if len(self._parts) == MAX_PARTS:
                self._parts.clear()
            part = self._parts[size_bytes] = zmq.Frame(self.bytes[:size_bytes].data, copy=False)
        return part

    def tensor(self, size_bytes: int) -> torch.Tensor:
        """As every payload's."""
        return torch.from_numpy(self.bytes[:size_bytes])

    def release(self) -> None:
        """The receiver has read all of it."""
        self._owner.give(self)


class DevicePayload:
    """A frame's payload on a GPU, where torch keeps memory that was let go of."""

    def __init__(self, frame: torch.Tensor) -> None:
        self._frame = frame

    def tensor(self, size_bytes: int) -> torch.Tensor:
        """As every payload's."""
        return self._frame[:size_bytes]

    def release(self) -> None:
        """Nothing more than to be let go of."""
