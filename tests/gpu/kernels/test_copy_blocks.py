"""Copies of blocks, and of some of their heads, byte for byte."""

import numpy as np
import pytest
import torch

from engine.kernels import copy_blocks as cpu
from engine.kernels.gpu.copy_blocks import (
    copy_blocks,
    copy_blocks_reference,
    gather_heads,
    gather_heads_reference,
    scatter_heads,
    scatter_heads_reference,
)

L, K, P, D = 2, 4, 8, 64


def pool_of(num_blocks: int, heads: int = K, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(num_blocks, L, 2, heads, P, D).to(dtype)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int64), b.view(torch.int64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("blocks", "slots"), [([], []), ([3], [0]), ([4, 0, -1, 2], [1, 2, 0, -1])])
def test_blocks_agree_with_the_twin(dtype: torch.dtype, blocks: list[int], slots: list[int]) -> None:
    source, target = pool_of(5, dtype=dtype), pool_of(3, dtype=dtype)
    twin = target.clone()
    ids, places = torch.tensor(blocks, dtype=torch.int64), torch.tensor(slots, dtype=torch.int64)

    copy_blocks(source, ids, target, places)

    copy_blocks_reference(source, ids, twin, places)
    assert same(target, twin)


def test_blocks_agree_with_the_cpu() -> None:
    source, target = pool_of(5), pool_of(4)
    on_cpu = target.cpu().clone()
    blocks, slots = np.array([4, 1], np.int64), np.array([0, 3], np.int64)

    copy_blocks(source, torch.tensor(blocks), target, torch.tensor(slots))

    to = on_cpu.view(torch.uint8).numpy().reshape(4, -1)
    cpu.copy_blocks(source.cpu().view(torch.uint8).numpy().reshape(5, -1), blocks, to, slots)
    assert same(target.cpu(), on_cpu)


@pytest.mark.parametrize(("first", "heads"), [(0, 1), (1, 2), (3, 1), (0, 4)])
@pytest.mark.parametrize("blocks", [[], [2], [4, 0, -1, 3]])
def test_heads_are_packed_and_put_back_as_the_twins_do(first: int, heads: int, blocks: list[int]) -> None:
    pool, packed = pool_of(5), pool_of(len(blocks), heads)
    ids, twin = torch.tensor(blocks, dtype=torch.int32), packed.clone()

    gather_heads(pool, ids, first, packed)

    gather_heads_reference(pool, ids, first, twin)
    assert same(packed, twin)
    target = pool_of(5)
    twin_target = target.clone()
    scatter_heads(packed, target, ids, first)
    scatter_heads_reference(packed, twin_target, ids, first)
    assert same(target, twin_target)


def test_two_halves_make_the_whole() -> None:
    pool, target = pool_of(3), pool_of(3)
    ids = torch.tensor([2, 0, 1])

    for first in (0, 2):
        packed = pool_of(3, 2)
        gather_heads(pool, ids, first, packed)
        scatter_heads(packed, target, ids, first)

    assert same(target, pool)
