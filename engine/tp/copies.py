"""Bytes between the pools of ranks that have one each and memory of the host that they share, as rank 0 asks for it.

Rank 0 talks to other workers and sees whole blocks (`kvtransfer/ranks_store.py`); of each, a rank has its own heads'
bytes, on its own device. A rank copies runs of them out to its part of the shared memory, or from there in, beside what
it computes, and answers when that is done.

Neither side waits for the stream that computes. Blocks that are read were computed in a step whose end rank 0 has
seen, and no rank is behind by then: the last sum of a step takes all of them. Blocks that are written are nobody's.
"""

import struct
from collections.abc import Sequence

import numpy as np
import torch

from engine.copy_stream import CopyStream
from engine.tp.channel import FINE, Channel
from engine.tp.ranks import RankFailed

STAGING_BYTES = 4 << 20
"""Of each rank."""
_HEAD = struct.Struct("<q")
_OUT, _IN = 0, 1


class Copies:
    """One rank's: of its pool, `[N, ...]` and contiguous, and its part of the shared memory."""

    def __init__(self, pool: torch.Tensor, staging: memoryview) -> None:
        self._bytes = pool.view(-1).view(torch.uint8)
        self._staged = torch.frombuffer(staging, dtype=torch.uint8)
        self._stream = CopyStream(pool.device)
        if self._stream.on_gpu:
            with self._stream.copying():  # so that the GPU reads and writes it by itself
                register = torch.cuda.cudart().cudaHostRegister  # type: ignore[no-untyped-call]
                status = register(self._staged.data_ptr(), self._staged.nbytes, 0)
                torch.cuda.check_error(int(status))

    def __call__(self, runs: np.ndarray, *, is_out: bool) -> None:
        """Copy `runs` `[n, 3]` int64: the first byte in the pool, the first in the memory, how many. Returned, they are
        copied."""
        with self._stream.copying():
            for begin, start, size in runs.tolist():
                there, here = self._bytes[begin : begin + size], self._staged[start : start + size]
                target, source = (here, there) if is_out else (there, here)
                target.copy_(source, non_blocking=True)


class TeamCopies:
    """Those of all ranks, as rank 0 has them. One caller at a time."""

    def __init__(self, own: Copies, others: Sequence[Channel], staging: memoryview) -> None:
        self._own, self._others = own, others
        self.staging = [np.frombuffer(staging_of(staging, rank), np.uint8) for rank in range(1 + len(others))]
        """The memory of each rank."""
        self._failed = ""

    def __call__(self, runs: Sequence[np.ndarray], *, is_out: bool) -> None:
        """Have each rank copy its runs; returns when all have. Raises RankFailed, from then on."""
        if self._failed:
            raise RankFailed(self._failed)
        try:
            for channel, its in zip(self._others, runs[1:], strict=True):
                channel.send(_HEAD.pack(_OUT if is_out else _IN) + its.tobytes())
            self._own(runs[0], is_out=is_out)
            answers = [channel.receive() for channel in self._others]
        except OSError as error:
            self._failed = f"a rank does not answer: {error}"  # what it says later would be taken for another answer
            raise RankFailed(self._failed) from error
        if None in answers:
            self._failed = "a rank has ended"
            raise RankFailed(self._failed)


def staging_of(memory: memoryview, rank: int) -> memoryview:
    """The part of one rank."""
    return memory[rank * STAGING_BYTES : (rank + 1) * STAGING_BYTES]


def serve_copies(channel: Channel, copies: Copies) -> None:
    """Do what comes, until the leader ends."""
    while (data := channel.receive()) is not None:
        runs = np.frombuffer(data, np.int64, offset=_HEAD.size).reshape(-1, 3)
        copies(runs, is_out=_HEAD.unpack_from(data)[0] == _OUT)
        channel.send(FINE)
