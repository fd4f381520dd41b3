"""Chained block hashes: the same on every worker and release, and each names all that came before."""

from array import array
from hashlib import blake2b

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.hashes import HASH_BYTES, block_hashes, next_hash
from engine.sequence import BlockHash

ROOT = BlockHash(bytes(HASH_BYTES))
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=40)


def test_the_definition() -> None:
    expected = blake2b(ROOT + bytes([1, 0, 0, 0, 2, 1, 0, 0]), digest_size=16).digest()
    assert block_hashes([1, 258, 3], 2, ROOT) == [expected]
    assert expected.hex() == "bf272d81e712837b84f0d2099f6445a0"


@settings(deadline=None)
@given(tokens=TOKENS, block_tokens=st.integers(1, 9), cut=st.integers(0, 40))
def test_a_chain_can_be_continued_anywhere(tokens: list[int], block_tokens: int, cut: int) -> None:
    whole = block_hashes(tokens, block_tokens, ROOT)
    assert len(whole) == len(tokens) // block_tokens
    known = whole[: cut // block_tokens]
    parent = known[-1] if known else ROOT
    assert [*known, *block_hashes(tokens[len(known) * block_tokens :], block_tokens, parent)] == whole
    assert block_hashes(array("i", tokens), block_tokens, ROOT) == whole


@settings(deadline=None)
@given(tokens=TOKENS.filter(bool), at=st.integers(0, 39))
def test_a_hash_names_every_token_before_it(tokens: list[int], at: int) -> None:
    at %= len(tokens)
    other = [*tokens[:at], tokens[at] ^ 1, *tokens[at + 1 :]]
    pairs = zip(block_hashes(tokens, 3, ROOT), block_hashes(other, 3, ROOT), strict=True)
    assert [a == b for a, b in pairs] == [(block + 1) * 3 <= at for block in range(len(tokens) // 3)]


def test_roots_keep_tenants_apart() -> None:
    other = BlockHash(b"tenant".ljust(HASH_BYTES, b"\0"))
    assert next_hash(ROOT, [1, 2]) != next_hash(other, [1, 2])
