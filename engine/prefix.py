"""How sequences find and leave full blocks in the prefix cache. Pure; the pool counts, this names.

A full block is named by the chained hash of every token up to its end, so a sequence can start from any leading run of
known blocks, and whatever it computes is there for the next one.
"""

from engine.blocks import BlockPool
from engine.hashes import next_hash
from engine.sequence import Sequence, SequenceId


class PrefixCache:
    """Names and finds full blocks of `block_tokens` positions in a pool."""

    def __init__(self, pool: BlockPool[SequenceId], block_tokens: int) -> None:
        self.pool = pool
        self.block_tokens = block_tokens

    def num_blocks(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` positions fill, the last one maybe in part."""
        return -(-num_tokens // self.block_tokens)

    def match(self, sequence: Sequence) -> list[int]:
        """Cached blocks `sequence` can start from; its last token is never among them, its logits are needed."""
        return self.pool.match(sequence.hashes[: (len(sequence.tokens) - 1) // self.block_tokens])

    def can_take(self, sequence: Sequence, keep_free: int = 0) -> bool:
        """Whether `take` would succeed now."""
        reuse = self.match(sequence)
        num_new = self.num_blocks(len(sequence.tokens)) - len(reuse)
        return self.pool.num_available_beside(reuse) - num_new >= keep_free

    def take(self, sequence: Sequence, keep_free: int = 0) -> bool:
        """Give `sequence` blocks for all its tokens, cached ones first, beside `keep_free`; False if too few."""
        if not self.can_take(sequence, keep_free):
            return False
        reuse = self.match(sequence)
        num_new = self.num_blocks(len(sequence.tokens)) - len(reuse)
        sequence.blocks.extend(self.pool.take(sequence.id, num_new, reuse) or ())
        sequence.num_computed = len(reuse) * self.block_tokens
        return True

    def grow(self, sequence: Sequence, num_more: int = 0) -> bool:
        """See that `sequence` has blocks for all its tokens and one more at most, adding one if need be; False if there
        is none."""
        if len(sequence.blocks) * self.block_tokens >= len(sequence.tokens) + num_more:
            return True
        added = self.pool.take(sequence.id, 1)
        sequence.blocks.extend(added or ())
        return added is not None

    def advance(self, sequence: Sequence, num_computed: int) -> None:
        """Note that positions up to `num_computed` hold keys and values; make newly full blocks findable."""
        first_full = sequence.num_computed // self.block_tokens
        sequence.num_computed = num_computed
        if sequence.hash_root is None:
            return
        for index in range(first_full, num_computed // self.block_tokens):
            if index == len(sequence.hashes):
                parent = sequence.hashes[-1] if sequence.hashes else sequence.hash_root
                start = index * self.block_tokens
                sequence.hashes.append(next_hash(parent, sequence.tokens[start : start + self.block_tokens]))
            self.pool.store(sequence.blocks[index], sequence.hashes[index])

    def release(self, sequence: Sequence) -> None:
        """Take the sequence's blocks back; what it computed is forgotten, except by the cache."""
        self.pool.release(sequence.id)
        del sequence.blocks[:]
        sequence.num_computed = 0
