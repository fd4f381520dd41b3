"""Blocks cut into pieces: which bytes a piece is, and copying pieces while their checksums are computed.

The pieces of a run of blocks are numbered through, block after block. Knows the limits that both sides of the wire
keep. Does not know tickets or messages.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from engine.kernels.xxh3 import MIN_BYTES, copy_hashed

PIECE_BYTES = 256 << 10
"""Blocks are cut into pieces of this size, the last one shorter. Part of the wire contract: both sides cut alike."""
FRAME_BYTES = 4 << 20
"""A frame carries this much at most, so that both ends work at the same time and `revoke` waits for some 0.4 ms. Half
of it is a tenth slower: what Python does for a frame takes long, as the frame before drove it out of the caches."""
MAX_PIECES = 256
"""Pieces in one frame."""

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Checksums = npt.NDArray[np.uint64]
"""XXH3-64, one for each piece."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How blocks of one size are cut."""

    block_bytes: int

    @property
    def per_block(self) -> int:
        return -(-self.block_bytes // PIECE_BYTES)

    def number(self, block: int, offset: int) -> int | None:
        """Of the piece that begins there; None if none does."""
        index, beside = divmod(offset, PIECE_BYTES)
        return None if beside or offset >= self.block_bytes else block * self.per_block + index

    def size_bytes(self, offset: int, count: int) -> int | None:
        """Of `count` consecutive pieces, the first of which begins there in its block; None if none does."""
        if (first := self.number(0, offset)) is None:
            return None
        begin, end = self.place(first), self.place(first + count)
        return (end[0] - begin[0]) * self.block_bytes + end[1] - begin[1]

    def place(self, number: int) -> tuple[int, int]:
        """The block and the offset where a piece begins."""
        block, index = divmod(number, self.per_block)
        return block, index * PIECE_BYTES


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes that lie together in a pool and in a frame."""

    begin: int
    """In the pool."""
    start: int
    """In the frame."""
    size_bytes: int


class Pieces:
    """Where all pieces of a run of blocks lie in a pool that keeps them as its `blocks`: worked out once, for a frame's
    turn comes when caches are full of bytes, and every line of Python is slow."""

    def __init__(self, cut: Cut, blocks: Numbers) -> None:
        offsets = np.arange(cut.per_block) * PIECE_BYTES
        self.begins: Numbers = (blocks[:, None] * cut.block_bytes + offsets).ravel()
        self.sizes: Numbers = np.tile(np.minimum(cut.block_bytes - offsets, PIECE_BYTES), len(blocks))
        self._starts: Numbers = np.concatenate([[0], np.cumsum(self.sizes)])
        """Bytes before each, and of all."""

    def __len__(self) -> int:
        return len(self.sizes)

    def size_bytes(self, some: range) -> int:
        return int(self._starts[some.stop] - self._starts[some.start])

    def frames(self) -> Iterator[range]:
        """All of them, as many at a time as one frame carries."""
        first = 0
        while first < len(self):
            end = self._starts[first] + FRAME_BYTES
            fitting = int(np.searchsorted(self._starts, end, side="right")) - 1
            yield range(first, min(fitting, first + MAX_PIECES))
            first = min(fitting, first + MAX_PIECES)

    def starts(self, some: range) -> Numbers:
        """Where each begins in a frame of just these."""
        starts: Numbers = self._starts[some.start : some.stop] - self._starts[some.start]
        return starts

    def runs(self, some: range) -> list[Run]:
        """What a copy that knows no pieces takes at once: all of a block, and of blocks that follow one another."""
        at = slice(some.start, some.stop)
        begins, starts = self.begins[at], self.starts(some)
        apart = begins[1:] != begins[:-1] + self.sizes[at][:-1]
        firsts = np.flatnonzero(np.concatenate([[True], apart]))
        ends = np.append(starts[firsts[1:]], self.size_bytes(some))
        places = zip(begins[firsts].tolist(), starts[firsts].tolist(), ends.tolist(), strict=True)
        return [Run(begin, start, end - start) for begin, start, end in places]

    def gather(self, some: range, memory: Bytes, frame: Bytes) -> Checksums:
        """Copy out of the pool, one after the other into a frame that is sent next."""
        at = slice(some.start, some.stop)
        return _copy(memory, self.begins[at], frame, self.starts(some), self.sizes[at], to_memory=False)

    def scatter(self, some: range, frame: Bytes, memory: Bytes) -> Checksums:
        """Copy a frame's pieces to where they belong in the pool."""
        at = slice(some.start, some.stop)
        return _copy(frame, self.starts(some), memory, self.begins[at], self.sizes[at], to_memory=True)

    def copy(self, some: range, source: Bytes, target: Bytes, *, to_memory: bool) -> Checksums:
        """From frame to frame; `to_memory`: nobody on this CPU reads the target next."""
        starts = self.starts(some)
        return _copy(source, starts, target, starts, self.sizes[some.start : some.stop], to_memory=to_memory)


def _copy(
    source: Bytes, begins: Numbers, target: Bytes, starts: Numbers, sizes: Numbers, *, to_memory: bool
) -> Checksums:
    checksums = np.empty(len(sizes), np.uint64)
    copy_hashed(source, begins, target, starts, sizes, to_memory, checksums)
    if sizes.min() < MIN_BYTES:
        for i in np.flatnonzero(sizes < MIN_BYTES):  # what the kernel leaves out
            data = source[begins[i] : begins[i] + sizes[i]]
            target[starts[i] : starts[i] + sizes[i]] = data
            checksums[i] = xxhash.xxh3_64_intdigest(data.data)
    return checksums


def digest(checksums: Checksums, first_token: int) -> int:
    """XXH3-64 over the checksums of all pieces of a ticket, and the token that comes with them."""
    return xxhash.xxh3_64_intdigest(checksums.astype("<u8").tobytes() + first_token.to_bytes(8, "little", signed=True))
