"""A pool in this process's own memory, as transports see it: copied out of and into in one pass, with checksums."""

import numpy as np

from kvtransfer.pieces import Bytes, Checksums, Pieces


class HostStore:
    """Block i of `memory` lies at i times `block_bytes`."""

    block_bytes: int
    num_blocks: int

    def __init__(self, memory: memoryview, block_bytes: int) -> None:
        self._memory = memory
        self.block_bytes = block_bytes
        self.num_blocks = len(memory) // block_bytes

    @property
    def memory(self) -> memoryview:
        """The writable bytes of all blocks, without a copy."""
        return self._memory

    def block_view(self, block: int) -> memoryview:
        """The writable bytes of one block, without a copy."""
        assert 0 <= block < self.num_blocks
        return self.memory[block * self.block_bytes : (block + 1) * self.block_bytes]

    def gather(self, pieces: Pieces, some: range, frame: Bytes) -> Checksums:
        """As every `BlockStore`'s."""
        return pieces.gather(some, np.frombuffer(self.memory, np.uint8), frame)

    def scatter(self, pieces: Pieces, some: range, frame: Bytes) -> Checksums:
        """As every `BlockStore`'s."""
        return pieces.scatter(some, frame, np.frombuffer(self.memory, np.uint8))
