"""The prefix cache: what was computed is found again, block by block, and the last token never."""

import pytest

from engine.blocks import BlockPool
from engine.hashes import block_hashes
from engine.prefix import PrefixCache
from engine.sequence import Sequence, SequenceId
from tests.workload import ROOT, sequence

P = 4


def cache(num_blocks: int = 8) -> PrefixCache:
    return PrefixCache(BlockPool[SequenceId](num_blocks), P)


def request(name: str, tokens: list[int]) -> Sequence:
    return sequence(name, tokens, block_tokens=P)


def computed(prefixes: PrefixCache, name: str, tokens: list[int]) -> Sequence:
    made = request(name, tokens)
    assert prefixes.take(made)
    prefixes.advance(made, len(tokens))
    return made


@pytest.mark.parametrize(("num_tokens", "cached"), [(4, 0), (5, 4), (8, 4), (9, 8), (12, 8), (13, 12)])
def test_full_blocks_but_the_last_token_are_found(num_tokens: int, cached: int) -> None:
    prefixes = cache()
    prefixes.release(computed(prefixes, "a", list(range(13))))
    b = request("b", list(range(num_tokens)))

    assert prefixes.take(b)

    assert b.num_computed == cached
    assert len(b.blocks) == prefixes.num_blocks(num_tokens)
    prefixes.pool.check()


def test_a_prefix_is_shared_while_both_run() -> None:
    prefixes = cache()
    a = computed(prefixes, "a", list(range(9)))
    b = computed(prefixes, "b", [*range(8), 99])

    assert b.blocks[:2] == a.blocks[:2]
    assert b.blocks[2] != a.blocks[2]
    prefixes.release(a)
    assert prefixes.pool.num_available == 8 - 3
    prefixes.pool.check()


def test_blocks_are_findable_only_once_they_are_full_and_computed() -> None:
    prefixes = cache()
    a = request("a", list(range(8)))
    prefixes.take(a)
    prefixes.advance(a, 3)
    assert prefixes.pool.stored_hashes() == ()
    prefixes.advance(a, 5)
    assert prefixes.pool.stored_hashes() == (a.hashes[0],)


def test_the_chain_goes_on_over_the_answer_as_the_frontend_would_hash_it() -> None:
    prefixes = cache()
    a = computed(prefixes, "a", list(range(6)))
    for token in (6, 7, 8):
        a.append(token)
        prefixes.grow(a)
        prefixes.advance(a, len(a.tokens))
    assert a.hashes == block_hashes(list(range(9)), P, ROOT)
    assert prefixes.match(request("b", list(range(9)))) == a.blocks[:2].tolist()


def test_who_has_no_root_leaves_and_finds_nothing() -> None:
    prefixes = cache()
    computed(prefixes, "a", list(range(9)))
    b = request("b", list(range(9)))
    b.hash_root, b.hashes = None, []
    prefixes.take(b)
    assert b.num_computed == 0
    prefixes.advance(b, 9)
    assert len(prefixes.pool.stored_hashes()) == 2


def test_too_few_blocks_take_nothing() -> None:
    prefixes = cache(num_blocks=3)
    a, b = request("a", list(range(12))), request("b", list(range(13)))

    assert not prefixes.take(b)
    assert not prefixes.take(a, keep_free=1)
    assert (len(b.blocks), prefixes.pool.num_available) == (0, 3)
    assert prefixes.take(a)
    assert not prefixes.can_take(request("c", [1]))


def test_growing_adds_a_block_when_the_last_is_full_and_says_when_there_is_none() -> None:
    prefixes = cache(num_blocks=2)
    a = computed(prefixes, "a", list(range(4)))
    assert prefixes.grow(a)
    assert len(a.blocks) == 1
    a.append(1)
    assert prefixes.grow(a)
    assert len(a.blocks) == 2
    for _ in range(4):
        a.append(1)
    assert not prefixes.grow(a)
    assert len(a.blocks) == 2


def test_release_forgets_what_was_computed_but_not_the_cache() -> None:
    prefixes = cache()
    a = computed(prefixes, "a", list(range(9)))
    prefixes.release(a)
    prefixes.release(a)
    assert (len(a.blocks), a.num_computed, prefixes.pool.num_available) == (0, 0, 8)
    assert prefixes.take(a)
    assert a.num_computed == 8
