"""Which KV blocks are free, cached or owned, and by whom. Standard library only; counts ids, touches no memory.

    free     holds nothing of use
    cached   owned by nobody, but findable by its hash; taken least recently used first when free blocks run out
    owned    by one owner, or by several that share a full block of equal content

A block is owned as often as owners list it (`check`). Full blocks are found by their chained hash, which names every
token up to the block's end, so equal hash means equal content.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from engine.sequence import BlockHash

Owner = TypeVar("Owner", bound=Hashable)


@dataclass(frozen=True, slots=True)
class CacheChanges:
    """What became findable, and what no longer is, since the last look."""

    stored: tuple[BlockHash, ...]
    evicted: tuple[BlockHash, ...]


class BlockPool(Generic[Owner]):
    """Custody of `num_blocks` block ids."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free: deque[int] = deque(range(num_blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._owned: dict[Owner, list[int]] = {}
        self._ref_counts = [0] * num_blocks
        self._hash_of: dict[int, BlockHash] = {}
        self._block_of: dict[BlockHash, int] = {}
        self._changes: dict[BlockHash, bool] = {}

    @property
    def num_available(self) -> int:
        """Blocks that can be taken now: free ones and cached ones."""
        return len(self._free) + len(self._cached)

    def num_available_beside(self, reuse: Sequence[int]) -> int:
        """Blocks that could be taken in addition to `reuse`."""
        return self.num_available - sum(1 for block in reuse if self._ref_counts[block] == 0)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def owners(self) -> Iterable[Owner]:
        return self._owned.keys()

    def blocks_of(self, owner: Owner) -> Sequence[int]:
        return self._owned.get(owner, ())

    def match(self, hashes: Iterable[BlockHash]) -> list[int]:
        """The blocks that hold the longest known run of leading `hashes`; they are not taken by looking."""
        found = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def take(self, owner: Owner, num_new: int, reuse: Sequence[int] = ()) -> list[int] | None:
        """Give `owner` the blocks `reuse` (from `match`), then `num_new` others; None if there are too few.

        The new ones come from the free list first, then from the least recently used cached blocks.
        """
        if self.num_available_beside(reuse) < num_new:
            return None
        for block in reuse:
            self._cached.pop(block, None)
            self._ref_counts[block] += 1
        taken = [*reuse]
        for _ in range(num_new):
            block = self._free.popleft() if self._free else self._evict()
            self._ref_counts[block] = 1
            taken.append(block)
        self._owned.setdefault(owner, []).extend(taken)
        return taken

    def release(self, owner: Owner) -> None:
        """Take back everything `owner` has; releasing twice is harmless. Last blocks are evicted first later on."""
        for block in reversed(self._owned.pop(owner, ())):
            self._ref_counts[block] -= 1
            if self._ref_counts[block]:
                continue
            if block in self._hash_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def store(self, block: int, block_hash: BlockHash) -> None:
        """Make an owned, full block findable. The first block stored under a hash keeps it while somebody owns it.

        One that is only cached gives way: what was just computed again was just used, and must not be evicted as if
        it had not been.
        """
        assert self._ref_counts[block], f"block {block} is owned by nobody"
        known = self._block_of.get(block_hash)
        if block in self._hash_of or (known is not None and known not in self._cached):
            return
        if known is None:
            self._changes[block_hash] = True
        else:
            del self._cached[known], self._hash_of[known]
            self._free.append(known)
        self._hash_of[block] = block_hash
        self._block_of[block_hash] = block

    def take_changes(self) -> CacheChanges:
        """What was stored and evicted since the last call; of what was both, the last."""
        changes, self._changes = self._changes, {}
        return CacheChanges(
            tuple(block_hash for block_hash, is_stored in changes.items() if is_stored),
            tuple(block_hash for block_hash, is_stored in changes.items() if not is_stored),
        )

    def stored_hashes(self) -> tuple[BlockHash, ...]:
        """Every hash that can be found now."""
        return tuple(self._block_of)

    @property
    def num_leaked_when_idle(self) -> int:
        """`num_leaked` at no cost, while nobody owns a block; 0 while somebody does."""
        return 0 if self._owned else self.num_blocks - self.num_available

    def num_leaked(self) -> int:
        """Blocks that are neither free, nor cached, nor listed by an owner; 0 unless there is a bug."""
        listed = {block for blocks in self._owned.values() for block in blocks}
        return self.num_blocks - len(self._free) - len(self._cached) - len(listed)

    def check(self) -> None:
        """Assert the invariant: each block is free, or cached, or owned `ref_count` times."""
        counts = Counter(block for blocks in self._owned.values() for block in blocks)
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a block is free twice"
        for block in range(self.num_blocks):
            assert self._ref_counts[block] == counts[block], f"block {block} is owned {counts[block]} times"
            states = (block in free) + (block in cached) + (counts[block] > 0)
            assert states == 1, f"block {block} is in {states} states"
        assert all(block in self._hash_of for block in cached), "a cached block has no hash"
        assert not any(block in self._hash_of for block in free), "a free block has a hash"
        assert {h: b for b, h in self._hash_of.items()} == self._block_of, "hashes and blocks disagree"

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        block_hash = self._hash_of.pop(block)
        del self._block_of[block_hash]
        self._changes[block_hash] = False
        return block
