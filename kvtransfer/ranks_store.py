"""A pool whose heads lie with several ranks, each on a device of its own, as transports see it: whole blocks.

Of a block `[L, 2, K, P, D]` a rank has `[L, 2, k, P, D]`, those of its own heads. What comes and goes is the whole
block's bytes, in their order, so that workers of any numbers of ranks exchange blocks, and no frame tells how many.

    out   each rank copies its share of the pieces to memory of the host; -> one frame's bytes; -> frame, with checksums
    in    frame -> bytes, with checksums; -> each rank's share; which it copies into its pool

The share of a rank in consecutive bytes of a block is consecutive bytes of its own block: so a block is one copy a
rank, as it is for a device that has all heads. The host puts heads in their places, in rows that no cut goes through.

When a rank copies, and what has to be true of blocks then, is as in `engine/tp/copies.py` and `device_store`.
"""

import threading
from dataclasses import dataclass
from math import gcd
from typing import Protocol

import numpy as np

from engine.errors import TransferFailed
from engine.models.spec import ModelSpec
from engine.tp.ranks import RankFailed
from engine.tp.split import Split
from kvtransfer.pieces import FRAME_BYTES, PIECE_BYTES, Bytes, Checksums, Numbers, Pieces


class AllCopies(Protocol):
    """Those of all ranks of a worker (`engine.tp.copies.TeamCopies`)."""

    @property
    def staging(self) -> list[Bytes]:
        """Memory of the host for each rank, a frame's worth at least."""
        ...

    def __call__(self, runs: list[Numbers], *, is_out: bool) -> None:
        """Have each rank copy its runs `[n, 3]`: first byte in its pool, first in its memory, how many. Raises
        RankFailed."""
        ...


@dataclass(frozen=True, slots=True)
class SharedHeads:
    """How a block's heads lie with ranks."""

    num_units: int
    """2 L: keys and values of each layer"""
    num_heads: int
    head_bytes: int
    """Of one head's positions in one unit"""
    shares: tuple[slice, ...]
    """Each rank's heads; several ranks may have the same one"""

    @classmethod
    def of(cls, spec: ModelSpec, num_ranks: int, head_bytes: int) -> "SharedHeads":
        shares = tuple(Split.of(spec, rank, num_ranks).kv_heads for rank in range(num_ranks))
        return cls(2 * spec.num_layers, spec.num_kv_heads, head_bytes, shares)

    @property
    def block_bytes(self) -> int:
        return self.num_units * self.num_heads * self.head_bytes


@dataclass(frozen=True, slots=True)
class _Share:
    """What of some pieces one rank has."""

    rows: Numbers
    """Of a frame"""
    runs: Numbers
    """Where they lie in its pool and, one after the other, in its memory"""


class RanksStore:
    """`num_blocks` blocks of all ranks."""

    def __init__(self, num_blocks: int, heads: SharedHeads, copies: AllCopies) -> None:
        assert all(len(memory) >= FRAME_BYTES for memory in copies.staging)
        self.num_blocks = num_blocks
        self.block_bytes = heads.block_bytes
        self._heads, self._copies = heads, copies
        self._row_bytes = gcd(heads.head_bytes, PIECE_BYTES)
        self._frame: Bytes = np.empty(FRAME_BYTES, np.uint8)
        self._lock = threading.Lock()

    def gather(self, pieces: Pieces, some: range, frame: Bytes) -> Checksums:
        """As every `BlockStore`'s."""
        with self._lock:
            shares = self._shares(pieces, some)
            self._copy(shares, is_out=True)
            rows = self._rows(self._frame, pieces.size_bytes(some))
            for share, memory in zip(shares, self._copies.staging, strict=True):
                rows[share.rows] = self._rows(memory, len(share.rows) * self._row_bytes)
            return pieces.copy(some, self._frame, frame, to_memory=False)

    def scatter(self, pieces: Pieces, some: range, frame: Bytes) -> Checksums:
        """As every `BlockStore`'s."""
        with self._lock:
            checksums = pieces.copy(some, frame, self._frame, to_memory=False)
            shares = self._shares(pieces, some)
            rows = self._rows(self._frame, pieces.size_bytes(some))
            for share, memory in zip(shares, self._copies.staging, strict=True):
                np.take(rows, share.rows, axis=0, out=self._rows(memory, len(share.rows) * self._row_bytes))
            self._copy(shares, is_out=False)
            return checksums

    def _rows(self, memory: Bytes, size_bytes: int) -> Bytes:
        return memory[:size_bytes].reshape(-1, self._row_bytes)

    def _copy(self, shares: list[_Share], *, is_out: bool) -> None:
        try:
            self._copies([share.runs for share in shares], is_out=is_out)
        except RankFailed as error:
            raise TransferFailed(str(error)) from error

    def _shares(self, pieces: Pieces, some: range) -> list[_Share]:
        """Each rank's. Rows are numbered through all blocks, and then by block, unit, head and row of the head."""
        heads, per_head = self._heads, self._heads.head_bytes // self._row_bytes
        at = slice(some.start, some.stop)
        begins, counts = pieces.begins[at] // self._row_bytes, pieces.sizes[at] // self._row_bytes
        firsts = np.repeat(begins - np.cumsum(counts) + counts, counts)
        whole = firsts + np.arange(len(firsts))
        units, head = np.divmod(whole // per_head, heads.num_heads)
        shares = []
        for its in heads.shares:
            rows = np.flatnonzero((head >= its.start) & (head < its.stop))
            own_head = units[rows] * (its.stop - its.start) + head[rows] - its.start
            shares.append(_Share(rows, self._runs(own_head * per_head + whole[rows] % per_head)))
        return shares

    def _runs(self, own: Numbers) -> Numbers:
        """Of rows of a rank's pool, those that lie together in it together."""
        starts = np.flatnonzero(np.diff(own, prepend=-2) != 1)
        sizes = np.diff(starts, append=len(own))
        return np.stack((own[starts], starts, sizes), axis=1) * self._row_bytes
