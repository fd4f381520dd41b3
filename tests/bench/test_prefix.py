"""The replay of a trace: what is read from it, the accounts of what is possible, and that our cache finds all of it."""

import json
from itertools import product
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.prefix import decode_reuse, prefill_reuse
from bench.reuse import best_reuse, endless_reuse, least_recent_reuse
from bench.turns import BLOCK_TOKENS, Turn, conversations, read_turns


def turn(*blocks: int, tail: int = 1, num_output: int = 1) -> Turn:
    """Full blocks and `tail` more tokens."""
    tokens = len(blocks) * BLOCK_TOKENS + tail
    return Turn((*blocks, -1 - sum(blocks)) if tail else blocks, tokens, num_output)


@st.composite
def traces(draw: st.DrawFn) -> list[Turn]:
    """Prompts that branch off from one another, as conversations do."""
    made: list[tuple[int, ...]] = [()]
    turns = []
    for number in range(draw(st.integers(1, 30))):
        start = draw(st.sampled_from(made))
        start = start[: draw(st.integers(0, len(start)))]
        blocks = (*start, *(1000 * (number + 1) + i for i in range(draw(st.integers(0 if start else 1, 5)))))[:12]
        made.append(blocks)
        turns.append(turn(*blocks, tail=draw(st.integers(0, 15)), num_output=draw(st.integers(1, 20))))
    return turns


def test_a_trace_is_scaled_and_cut(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1025, "output_length": 64, "hash_ids": [0, 1, 2]},
        {"timestamp": 1, "input_length": 512 * 4, "output_length": 5, "hash_ids": [0, 1, 5, 6]},
        {"timestamp": 2, "input_length": 1, "output_length": 5, "hash_ids": [9]},
    ]
    (tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = read_turns(tmp_path / "trace.jsonl", 2, 50)
    assert (first.blocks, first.num_tokens, first.num_output, first.num_full) == ((0, 1, 2), 33, 2, 2)
    assert (second.blocks, second.num_tokens, second.num_output, second.num_findable) == ((0, 1, 5, 6), 50, 1, 3)
    assert first.tokens()[:32] == second.tokens()[:32]
    assert first.tokens()[32:] != second.tokens()[32:33]
    assert len(second.tokens()) == 50


def test_conversations_are_taken_whole_and_in_order() -> None:
    turns = [turn(0, 1), turn(0, 2), turn(0, 1, 3), turn(0), turn(0, 1, 3, 4), turn(0, 5), turn(0, 5), turn(0, 5)]
    assert conversations(turns, 1) == [turns[0], turns[2], turns[4]]
    assert conversations(turns, 4) == [turns[i] for i in (0, 2, 4, 5, 6, 7)]
    assert conversations(turns, 1, min_turns=4) == []


def test_what_is_possible_by_hand() -> None:
    a, b = turn(1, 2, 3), turn(4, 5, 6)
    assert endless_reuse([a, b, a]) == 3
    assert least_recent_reuse([a, b, a], 8) == 3
    assert least_recent_reuse([a, b, a], 6) == 2, "the last block of the oldest went first"
    assert least_recent_reuse([a, b, a], 4) == 0
    assert best_reuse([a, b, a], 6) == 2
    whole = turn(1, 2, 3, tail=0)
    assert endless_reuse([whole, whole]) == 2, "the last token is always computed"
    assert least_recent_reuse([turn(1, num_output=16), turn(2), turn(1)], 4, with_answers=True) == 1
    assert least_recent_reuse([turn(1, num_output=16), turn(2), turn(1)], 2, with_answers=True) == 0


@settings(max_examples=60)
@given(traces(), st.integers(14, 60))
def test_our_cache_finds_what_is_possible(turns: list[Turn], num_blocks: int) -> None:
    lru = least_recent_reuse(turns, num_blocks)
    assert prefill_reuse(turns, num_blocks, 1) == lru
    assert decode_reuse(turns, num_blocks) == least_recent_reuse(turns, num_blocks, with_answers=True)
    assert lru <= best_reuse(turns, num_blocks) <= endless_reuse(turns)
    assert least_recent_reuse(turns, 10_000) == best_reuse(turns, 10_000) == endless_reuse(turns)


def test_nobody_does_better_than_who_knows_the_future() -> None:
    """Against every way to keep blocks, on traces small enough to try them all."""
    for trace in product([turn(1, 2), turn(3, 4), turn(5)], repeat=5):
        assert best_reuse(list(trace), 4) == _best_of_all(list(trace), 4)


def _best_of_all(turns: list[Turn], num_blocks: int) -> int:
    """Each request may leave any of the blocks that are there, as far as they fit beside the next one's."""
    states = {frozenset[int](): 0}
    for asked in turns:
        after: dict[frozenset[int], int] = {}
        for kept, found in states.items():
            run = next((i for i, block in enumerate(asked.blocks) if block not in kept), len(asked.blocks))
            others = sorted(kept - set(asked.blocks))
            room = num_blocks - len(asked.blocks)
            for choice in product([False, True], repeat=len(others)):
                stay = [block for block, stays in zip(others, choice, strict=True) if stays]
                if len(stay) <= room:
                    state = frozenset([*stay, *asked.blocks[: asked.num_full]])
                    after[state] = max(after.get(state, 0), found + min(run, asked.num_findable))
        states = after
    return max(states.values())
