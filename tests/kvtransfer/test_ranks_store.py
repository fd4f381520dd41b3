"""A pool that lies with several ranks beside the same blocks in one: what leaves it, and what reaches it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import TransferFailed
from engine.models.spec import ModelSpec, RopeSpec
from engine.tp.copies import STAGING_BYTES, Copies
from engine.tp.ranks import RankFailed
from kvtransfer.host_store import HostStore
from kvtransfer.pieces import FRAME_BYTES, Bytes, Cut, Numbers, Pieces
from kvtransfer.ranks_store import RanksStore, SharedHeads

NUM_BLOCKS = 6


def spec_of(**fields: int) -> ModelSpec:
    sizes = {"hidden_size": 96, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "mlp_size": 160}
    return ModelSpec(
        architecture="LlamaForCausalLM",
        vocab_size=211,
        rms_eps=1e-5,
        rope=RopeSpec(theta=1e4),
        max_context=320,
        **{**sizes, **fields},
    )


class Together:
    """The copies of all ranks, in this process."""

    def __init__(self, pools: list[torch.Tensor]) -> None:
        self.memories = [bytearray(STAGING_BYTES) for _ in pools]
        self.staging: list[Bytes] = [np.frombuffer(memory, np.uint8) for memory in self.memories]
        self._ranks = [Copies(pool, memoryview(memory)) for pool, memory in zip(pools, self.memories, strict=True)]
        self.num_runs = 0
        self.is_lost = False

    def __call__(self, runs: list[Numbers], *, is_out: bool) -> None:
        if self.is_lost:
            raise RankFailed("rank 1 of 2 has ended")
        for rank, its in zip(self._ranks, runs, strict=True):
            self.num_runs += len(its)
            rank(its, is_out=is_out)


class Both:
    """The same blocks with one rank's memory of all heads, and with several ranks."""

    def __init__(self, spec: ModelSpec, num_ranks: int, block_tokens: int, seed: int) -> None:
        shape = (NUM_BLOCKS, spec.num_layers, 2, spec.num_kv_heads, block_tokens, spec.head_dim)
        self.whole = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        heads = SharedHeads.of(spec, num_ranks, block_tokens * spec.head_dim * 4)
        self.shares = heads.shares
        self.pools = [self.whole[:, :, :, its].contiguous() for its in heads.shares]
        self.copies = Together(self.pools)
        self.spread = RanksStore(NUM_BLOCKS, heads, self.copies)
        self.host = HostStore(memoryview(self.whole.numpy()).cast("B"), self.spread.block_bytes)

    def agree(self) -> bool:
        parts = zip(self.pools, self.shares, strict=True)
        return all(torch.equal(pool, self.whole[:, :, :, its]) for pool, its in parts)


shapes = st.sampled_from(
    [
        (1, {}, 16),
        (2, {}, 16),
        (4, {}, 8),  # ranks share a head
        (2, {"num_kv_heads": 4, "head_dim": 80, "num_layers": 3}, 24),  # heads that pieces cut
        (4, {"num_kv_heads": 4, "head_dim": 112, "num_layers": 9}, 40),
        (4, {"num_heads": 8, "num_kv_heads": 8, "head_dim": 256, "num_layers": 5}, 64),  # blocks larger than a frame
    ]
)


def drawn(data: st.DataObject, block_bytes: int) -> tuple[Pieces, range]:
    blocks = data.draw(st.lists(st.integers(0, NUM_BLOCKS - 1), unique=True, min_size=1))
    pieces = Pieces(Cut(block_bytes), np.array(blocks))
    whole = data.draw(st.sampled_from(list(pieces.frames())))
    first = data.draw(st.integers(whole.start, whole.stop - 1))
    return pieces, range(first, data.draw(st.integers(first + 1, whole.stop)))


@settings(max_examples=40, deadline=None)
@given(shape=shapes, data=st.data())
def test_what_leaves_ranks_is_what_leaves_one_pool(shape: tuple[int, dict[str, int], int], data: st.DataObject) -> None:
    num_ranks, fields, block_tokens = shape
    both = Both(spec_of(**fields), num_ranks, block_tokens, seed=1)
    pieces, some = drawn(data, both.host.block_bytes)
    frames = [np.zeros(FRAME_BYTES, np.uint8) for _ in range(2)]

    found = both.spread.gather(pieces, some, frames[0])
    expected = both.host.gather(pieces, some, frames[1])

    assert found.tolist() == expected.tolist()
    assert (frames[0] == frames[1]).all()


@settings(max_examples=40, deadline=None)
@given(shape=shapes, data=st.data())
def test_what_reaches_ranks_is_what_reaches_one_pool_and_nothing_else_changes(
    shape: tuple[int, dict[str, int], int], data: st.DataObject
) -> None:
    num_ranks, fields, block_tokens = shape
    both = Both(spec_of(**fields), num_ranks, block_tokens, seed=1)
    pieces, some = drawn(data, both.host.block_bytes)
    frame = np.random.default_rng(2).integers(0, 256, FRAME_BYTES, np.uint8)

    found = both.spread.scatter(pieces, some, frame)
    expected = both.host.scatter(pieces, some, frame)

    assert found.tolist() == expected.tolist()
    same = [
        np.array_equal(pool.numpy().view(np.uint8), both.whole[:, :, :, its].contiguous().numpy().view(np.uint8))
        for pool, its in zip(both.pools, both.shares, strict=True)
    ]
    assert all(same)


def test_a_block_is_one_copy_a_rank() -> None:
    both = Both(spec_of(), 2, 16, seed=1)
    pieces = Pieces(Cut(both.spread.block_bytes), np.array([4, 1, 2]))

    both.spread.gather(pieces, range(len(pieces)), np.zeros(FRAME_BYTES, np.uint8))

    assert both.copies.num_runs == 2 * 2, "and two blocks side by side are one"


@pytest.mark.parametrize("sizes", [(a, b) for a in (1, 2, 4) for b in (1, 2, 4)], ids=str)
def test_blocks_go_from_any_number_of_ranks_to_any_other(sizes: tuple[int, int]) -> None:
    source, target = (Both(spec_of(), size, 16, seed) for seed, size in enumerate(sizes))
    cut, frame = Cut(source.spread.block_bytes), np.zeros(FRAME_BYTES, np.uint8)
    there, here = Pieces(cut, np.array([0, 3, 5])), Pieces(cut, np.array([4, 2, 1]))

    sent = source.spread.gather(there, range(len(there)), frame)
    taken = target.spread.scatter(here, range(len(here)), frame)

    assert sent.tolist() == taken.tolist()
    target.whole[[4, 2, 1]] = source.whole[[0, 3, 5]]
    assert target.agree()


def test_a_lost_rank_fails_the_transfer_with_its_name() -> None:
    both = Both(spec_of(), 2, 16, seed=1)
    both.copies.is_lost = True
    pieces = Pieces(Cut(both.spread.block_bytes), np.array([1]))

    with pytest.raises(TransferFailed, match="rank 1 of 2"):
        both.spread.gather(pieces, range(len(pieces)), np.zeros(FRAME_BYTES, np.uint8))
