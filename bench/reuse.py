"""How much of a trace's prompts a cache could serve, by accounts that know nothing of ours: block numbers alone.

A prompt finds its longest run of leading blocks that are there. While it is computed all its blocks are there, so what
others left must fit beside them. All results are blocks found, summed over the trace.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Container, Hashable, Iterable

from bench.turns import BLOCK_TOKENS, Turn

Block = Hashable


def endless_reuse(turns: Iterable[Turn]) -> int:
    """With room for everything."""
    seen: set[Block] = set()
    found = 0
    for turn in turns:
        found += _leading(turn.blocks[: turn.num_findable], seen)
        seen.update(turn.blocks[: turn.num_full])
    return found


def least_recent_reuse(turns: Iterable[Turn], num_blocks: int, *, with_answers: bool = False) -> int:
    """With `num_blocks`, least recently used first out; of one request's blocks the last one.

    With answers, the blocks that each one fills are kept too, although nobody asks for them.
    """
    kept: OrderedDict[Block, None] = OrderedDict()  # least recently used first
    found = 0
    for number, turn in enumerate(turns):
        full: list[Block] = list(turn.blocks[: turn.num_full])
        num_tokens = turn.num_tokens
        if with_answers:
            num_tokens += turn.num_output - 1  # the last token of an answer is never computed
            full += [(number, index) for index in range(turn.num_full, num_tokens // BLOCK_TOKENS)]
        found += _leading(turn.blocks[: turn.num_findable], kept)
        for block in full:
            kept.pop(block, None)
        while kept and len(kept) + -(-num_tokens // BLOCK_TOKENS) > num_blocks:
            kept.popitem(last=False)
        kept.update((block, None) for block in reversed(full))
    return found


def best_reuse(turns: list[Turn], num_blocks: int) -> int:
    """With `num_blocks`, and the future known: who is asked for last goes first, which nobody can do better."""
    uses: defaultdict[Block, deque[int]] = defaultdict(deque)
    for number, turn in enumerate(turns):
        for block in turn.blocks[: turn.num_findable]:
            uses[block].append(number)
    kept: dict[Block, int] = {}
    found = 0
    for turn in turns:
        found += _leading(turn.blocks[: turn.num_findable], kept)
        for block in turn.blocks[: turn.num_findable]:
            uses[block].popleft()
        for block in turn.blocks:
            kept.pop(block, None)
        room = max(num_blocks - len(turn.blocks), 0)
        if len(kept) > room:
            kept = dict(sorted(kept.items(), key=lambda item: item[1])[:room])
        # In the prompt's order, and the sort is stable: of blocks that are asked for together the first ones stay.
        kept.update((block, uses[block][0]) for block in turn.blocks[: turn.num_full] if uses[block])
    return found


def _leading(blocks: Iterable[Block], kept: Container[Block]) -> int:
    count = 0
    for block in blocks:
        if block not in kept:
            break
        count += 1
    return count
