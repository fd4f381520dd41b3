"""Rotation and the write into the pool against their twin and the CPU's kernel."""

import pytest
import torch

from engine.kernels import rope_cache as cpu
from engine.kernels.gpu.rope_cache import rope_cache, rope_cache_reference

EPS = 1e-6
N, L, LAYER = 5, 2, 1


def inputs(
    num_rows: int, ratio: int, block_tokens: int, head_dim: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    num_kv_heads = 2
    qkv = torch.randn(num_rows, (ratio + 2) * num_kv_heads * head_dim).to(dtype)
    angles = torch.rand(300, head_dim // 2) * 6
    table = torch.cat((angles.cos(), angles.sin()), -1)
    positions = torch.randint(0, 300, (num_rows,))
    slots = torch.randperm(N * block_tokens)[:num_rows]
    pool = torch.randn(N, L, 2, num_kv_heads, block_tokens, head_dim).to(dtype)
    return qkv, table, positions, slots, pool


@pytest.mark.parametrize(
    ("num_rows", "ratio", "block_tokens", "head_dim"),
    [(0, 1, 16, 64), (1, 1, 8, 64), (7, 4, 16, 64), (3, 8, 32, 128), (2, 3, 24, 80), (2, 2, 8, 256)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normed", [False, True])
def test_queries_and_pool_agree_with_the_twin(
    num_rows: int, ratio: int, block_tokens: int, head_dim: int, dtype: torch.dtype, normed: bool
) -> None:
    qkv, table, positions, slots, pool = inputs(num_rows, ratio, block_tokens, head_dim, dtype)
    norms = torch.randn(2, head_dim).to(dtype) if normed else None
    twin, twin_pool = qkv.clone(), pool.clone()
    keys_and_values = qkv[:, ratio * 2 * head_dim :].clone()

    rope_cache(qkv, table, positions, slots, pool, LAYER, norms, EPS)

    rope_cache_reference(twin, table, positions, slots, twin_pool, LAYER, norms, EPS)
    torch.testing.assert_close(qkv, twin)
    torch.testing.assert_close(pool, twin_pool)
    assert torch.equal(qkv[:, ratio * 2 * head_dim :], keys_and_values)


def test_a_pool_of_float8_has_what_fits_into_it() -> None:
    qkv, table, positions, slots, pool = inputs(7, 4, 16, 64, torch.float16)
    qkv *= 300  # some are larger than any of float8
    pool = pool.to(torch.float8_e4m3fn)
    twin, twin_pool = qkv.clone(), pool.clone()

    rope_cache(qkv, table, positions, slots, pool, LAYER)

    rope_cache_reference(twin, table, positions, slots, twin_pool, LAYER)
    torch.testing.assert_close(qkv, twin)
    ours, theirs = pool.float(), twin_pool.float()
    assert ours.abs().max() == 448
    assert not ours.isnan().any()
    assert (ours != theirs).float().mean() < 1e-3  # where a sum before it was rounded the other way


def test_many_tokens_take_more_heads_at_once() -> None:
    qkv, table, positions, slots, pool = inputs(300, 1, 64, 16, torch.float32)
    twin, twin_pool = qkv.clone(), pool.clone()

    rope_cache(qkv, table, positions, slots, pool, LAYER)

    rope_cache_reference(twin, table, positions, slots, twin_pool, LAYER)
    torch.testing.assert_close(qkv, twin)
    torch.testing.assert_close(pool, twin_pool)


def test_rows_without_a_slot_store_nothing() -> None:
    qkv, table, positions, slots, pool = inputs(4, 2, 8, 64, torch.float32)
    slots[1:3] = -1
    twin, twin_pool = qkv.clone(), pool.clone()

    rope_cache(qkv, table, positions, slots, pool, LAYER)

    rope_cache_reference(twin, table, positions, slots, twin_pool, LAYER)
    torch.testing.assert_close(pool, twin_pool)


def test_queries_and_pool_agree_with_the_cpu() -> None:
    qkv, table, positions, slots, pool = inputs(5, 4, 16, 64, torch.float32)
    norms = torch.randn(2, 64)
    on_cpu, cpu_pool = qkv.cpu().clone(), pool.cpu().clone()

    rope_cache(qkv, table, positions, slots, pool, LAYER, norms, EPS)

    arrays = (tensor.cpu().numpy() for tensor in (on_cpu, table, positions, slots, cpu_pool))
    cpu.rope_cache(*arrays, LAYER, norms.cpu().numpy(), EPS)
    num_queries = 8 * 64
    torch.testing.assert_close(qkv[:, :num_queries].cpu(), on_cpu[:, :num_queries])
    torch.testing.assert_close(pool.cpu(), cpu_pool)
