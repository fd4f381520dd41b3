"""Every kernel against its twin, on shapes that models have and on awkward ones."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import patch

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels import amx, vector_attention
from engine.kernels.decode_attention import SPLIT, decode_attention, decode_attention_twin
from engine.kernels.linear import Linear, linear_twin
from engine.kernels.logprobs import logprobs, logprobs_twin
from engine.kernels.norm import rms_norm, rms_norm_twin
from engine.kernels.prefill_attention import PrefillChunk, prefill_attention, prefill_attention_twin
from engine.kernels.repetition import repetition, repetition_twin
from engine.kernels.rope_cache import rope_cache, rope_cache_twin
from engine.kernels.silu_mul import silu_mul, silu_mul_twin
from engine.kernels.threads import share_cores


@pytest.fixture(autouse=True, scope="module")
def _threads() -> None:
    share_cores()


quick = settings(max_examples=40, deadline=None)
_HAS_TILES, _HAS_PAIRS = amx.runs_here(), vector_attention.has_pairs()
_ATTENTIONS = ["torch", *(["vectors"] if vector_attention.runs_here() else []), *(["tiles"] if _HAS_TILES else [])]
seeds = st.integers(0, 1 << 30)


@contextmanager
def attending(by: str) -> Iterator[None]:
    """With one of the kernels that this processor has for prefill attention."""
    with (
        patch.object(amx, "runs_here", lambda: by == "tiles"),
        patch.object(vector_attention, "runs_here", lambda: by == "vectors"),
        patch.object(vector_attention, "has_pairs", lambda: by == "vectors" and _HAS_PAIRS),
    ):
        yield


def test_sharing_cores_leaves_torch_its_threads_on_any_thread() -> None:
    def counts() -> tuple[int, int, int]:
        before = torch.get_num_threads()
        share_cores()
        return before, torch.get_num_threads(), numba.get_num_threads()

    with ThreadPoolExecutor(1) as elsewhere:
        for num_torch, still_torch, num_numba in (counts(), elsewhere.submit(counts).result()):
            assert num_torch == still_torch >= num_numba >= 1


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def paged(num_sequences: int, num_blocks: int, shape: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A pool of random numbers `[N, L, 2, K, P, D]` for `(L, K, P, D)`, and tables of blocks in random order."""
    num_layers, num_kv_heads, block_tokens, head_dim = shape
    total = num_sequences * num_blocks
    pool = torch.randn(total, num_layers, 2, num_kv_heads, block_tokens, head_dim)
    return pool, torch.randperm(total).view(num_sequences, num_blocks).int()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_rows", [0, 1, 17])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(40, 24), (1030, 260)])
def test_linear(dtype: torch.dtype, num_rows: int, has_bias: bool, rows: int, columns: int) -> None:
    weight = (torch.randn(rows, columns) * columns**-0.5).to(dtype)
    bias = torch.randn(rows).to(dtype) if has_bias else None
    x = torch.randn(num_rows, columns)

    y = Linear(weight, bias)(x)

    assert y.dtype is torch.float32
    close(y, linear_twin(x, weight, bias), 1e-5 if dtype is torch.float32 else 5e-2)


@pytest.mark.parametrize(("num_rows", "size"), [(0, 8), (1, 64), (5, 33), (3000, 48)])
@pytest.mark.parametrize("has_delta", [False, True])
def test_rms_norm(num_rows: int, size: int, has_delta: bool) -> None:
    hidden, weight = torch.randn(num_rows, size), torch.randn(size)
    delta = torch.randn(num_rows, size) if has_delta else None
    expected_hidden = hidden.clone()

    out = rms_norm(hidden, delta, weight.numpy(), 1e-5)

    close(out, rms_norm_twin(expected_hidden, delta, weight, 1e-5))
    close(hidden, expected_hidden)


@pytest.mark.parametrize(("num_rows", "size"), [(0, 8), (1, 172), (3000, 50)])
def test_silu_mul(num_rows: int, size: int) -> None:
    gate_up = torch.randn(num_rows, 2 * size) * 20

    close(silu_mul(gate_up), silu_mul_twin(gate_up))


def test_silu_of_extremes_stays_finite() -> None:
    gate_up = torch.tensor([[-1e4, -90.0, 0.0, 90.0, 1e4, 1.0, 1.0, 1.0, 1.0, 1.0]])

    close(silu_mul(gate_up), silu_mul_twin(gate_up))


@quick
@given(
    seed=seeds,
    num_rows=st.sampled_from([1, 3, 40]),
    num_heads=st.sampled_from([1, 2, 6]),
    num_kv_heads=st.sampled_from([1, 2]),
    head_dim=st.sampled_from([8, 20, 64]),
    block_tokens=st.sampled_from([1, 4, 16]),
    has_norms=st.booleans(),
)
def test_rope_cache(
    seed: int, num_rows: int, num_heads: int, num_kv_heads: int, head_dim: int, block_tokens: int, has_norms: bool
) -> None:
    torch.manual_seed(seed)
    pool, _ = paged(1, 41, (2, num_kv_heads, block_tokens, head_dim))
    qkv, table = torch.randn(num_rows, (num_heads + 2 * num_kv_heads) * head_dim), torch.randn(50, head_dim)
    positions, slots = torch.randint(50, (num_rows,)), torch.randperm(41 * block_tokens)[:num_rows]
    norms = torch.randn(2, head_dim) if has_norms else None
    expected_qkv, expected_pool = qkv.clone(), pool.clone()
    rope_cache_twin(expected_qkv, table, positions, slots, expected_pool, 1, norms, 1e-6)

    rope_cache(
        qkv.numpy(),
        table.numpy(),
        positions.numpy(),
        slots.numpy(),
        pool.numpy(),
        1,
        None if norms is None else norms.numpy(),
        1e-6,
    )

    close(qkv, expected_qkv)
    close(pool, expected_pool)


def test_rope_cache_of_many_rows() -> None:
    pool, _ = paged(1, 100, (1, 2, 16, 64))
    qkv, table, slots = torch.randn(1600, 6 * 64), torch.randn(50, 64), torch.randperm(1600)
    positions = torch.randint(50, (1600,))
    expected_qkv, expected_pool = qkv.clone(), pool.clone()
    rope_cache_twin(expected_qkv, table, positions, slots, expected_pool, 0)

    rope_cache(qkv.numpy(), table.numpy(), positions.numpy(), slots.numpy(), pool.numpy(), 0)

    close(qkv, expected_qkv)
    close(pool, expected_pool)


_SHAPES = [(heads, head_dim) for heads in ((1, 1), (4, 4), (6, 2), (5, 1)) for head_dim in (8, 20, 64)]
_FEW_SHAPES = [((4, 4), 16), ((4, 1), 64), ((6, 2), 20)]
"""A kernel is compiled for every group and head size; two of these are those of models in other tests."""


@pytest.mark.parametrize("shapes", [_FEW_SHAPES, pytest.param(_SHAPES, marks=pytest.mark.slow)], ids=["few", "all"])
@quick
@given(
    seed=seeds,
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    data=st.data(),
    block_tokens=st.sampled_from([1, 4, 7, 16]),
    window=st.sampled_from([None, 1, 5, 32, 1000]),
)
def test_decode_attention(
    shapes: list[tuple[tuple[int, int], int]],
    seed: int,
    lengths: list[int],
    data: st.DataObject,
    block_tokens: int,
    window: int | None,
) -> None:
    torch.manual_seed(seed)
    heads, head_dim = data.draw(st.sampled_from(shapes))
    check_decode(lengths, heads, head_dim, block_tokens, window)


@pytest.mark.parametrize("window", [None, 700, SPLIT])
def test_decode_attention_over_several_runs(window: int | None) -> None:
    check_decode([2 * SPLIT + 1, SPLIT, SPLIT - 1, 3, 2 * SPLIT], (4, 2), 8, 16, window)


def check_decode(
    lengths: list[int], heads: tuple[int, int], head_dim: int, block_tokens: int, window: int | None
) -> None:
    num_heads, num_kv_heads = heads
    pool, tables = paged(len(lengths), -(-max(lengths) // block_tokens), (2, num_kv_heads, block_tokens, head_dim))
    qkv = torch.randn(len(lengths) + 1, (num_heads + 2 * num_kv_heads) * head_dim) * 3
    out, context_lens = torch.empty(len(lengths), num_heads * head_dim), torch.tensor(lengths, dtype=torch.int32)

    decode_attention(qkv.numpy(), pool.numpy(), 1, tables.numpy(), context_lens.numpy(), out.numpy(), window)

    queries = qkv[: len(lengths), : num_heads * head_dim].view(len(lengths), num_heads, head_dim)
    close(out, decode_attention_twin(queries, pool, 1, tables, context_lens, window).flatten(1))


def test_decode_attention_does_not_depend_on_the_rest_of_the_batch() -> None:
    pool, tables = paged(3, 40, (1, 2, 16, 8))
    qkv, context_lens = torch.randn(3, 8 * 8).numpy(), np.array([600, 17, 100], np.int32)
    together, alone = np.empty((3, 4 * 8), np.float32), np.empty((1, 4 * 8), np.float32)

    decode_attention(qkv, pool.numpy(), 0, tables.numpy(), context_lens, together)

    for row in range(3):
        one = slice(row, row + 1)
        decode_attention(qkv[one], pool.numpy(), 0, tables.numpy()[one], context_lens[one], alone)
        assert (alone == together[one]).all()


@quick
@given(
    seed=seeds,
    start=st.one_of(st.integers(0, 40), st.integers(60, 200)),
    num_rows=st.one_of(st.integers(2, 30), st.integers(60, 140)),
    heads=st.sampled_from([(1, 1), (4, 4), (6, 2), (5, 1)]),
    head_dim=st.sampled_from([8, 20, 64, 80]),
    block_tokens=st.sampled_from([1, 4, 16]),
    window=st.sampled_from([None, 1, 5, 32, 100, 1000]),
    by=st.sampled_from(_ATTENTIONS),
)
def test_prefill_attention(
    seed: int,
    start: int,
    num_rows: int,
    heads: tuple[int, int],
    head_dim: int,
    block_tokens: int,
    window: int | None,
    by: str,
) -> None:
    torch.manual_seed(seed)
    num_heads, num_kv_heads = heads
    end = start + num_rows
    pool, tables = paged(1, -(-end // block_tokens), (2, num_kv_heads, block_tokens, head_dim))
    heads_of_rows = torch.randn(num_rows + 1, num_heads + 2 * num_kv_heads, head_dim)
    for row, position in enumerate(range(start, end), start=1):  # the chunk's own keys and values are stored already
        kv = heads_of_rows[row, num_heads:].view(2, num_kv_heads, head_dim)
        pool[tables[0, position // block_tokens], 1, :, :, position % block_tokens] = kv
    out = torch.zeros(num_rows + 1, num_heads * head_dim)
    chunk = PrefillChunk(1, num_rows + 1, end, tables[0].numpy(), window)

    with attending(by):
        prefill_attention(heads_of_rows.flatten(1), pool.numpy(), 1, chunk, out, slides=window is not None)

    expected = prefill_attention_twin(heads_of_rows[1:, :num_heads], pool, 1, tables[0], start, window)
    close(out[1:], expected.flatten(1))
    assert not out[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by", [by for by in _ATTENTIONS if by != "torch"])
@pytest.mark.parametrize("cut", [1, 32, 45, 64, 99])
def test_how_a_prompt_is_cut_does_not_change_its_attention(cut: int, by: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    pool, tables = paged(1, 7, (2, 2, 16, 64))
    qkv = torch.randn(100, (4 + 2 * 2) * 64)
    for position in range(100):
        pool[tables[0, position // 16], 1, :, :, position % 16] = qkv[position, 4 * 64 :].view(2, 2, 64)
    whole, cut_up = torch.empty(100, 4 * 64), torch.empty(100, 4 * 64)

    with attending(by):
        table = tables[0].numpy()
        prefill_attention(qkv, pool.numpy(), 1, PrefillChunk(0, 100, 100, table, dtype=dtype), whole)
        for first, end in ((0, cut), (cut, 100)):
            prefill_attention(qkv, pool.numpy(), 1, PrefillChunk(first, end, end, table, dtype=dtype), cut_up)

    assert torch.equal(whole, cut_up)


@pytest.mark.parametrize("by", _ATTENTIONS)
def test_rounded_prefill_attention_is_near(by: str) -> None:
    if by == "vectors" and not vector_attention.has_pairs():
        pytest.skip("needs AVX512-BF16")
    torch.manual_seed(0)
    pool, tables = paged(1, 10, (2, 2, 16, 64))
    qkv = torch.randn(100, (4 + 2 * 2) * 64)
    for row, position in enumerate(range(60, 160)):
        pool[tables[0, position // 16], 1, :, :, position % 16] = qkv[row, 4 * 64 :].view(2, 2, 64)
    out = torch.empty(100, 4 * 64)

    with attending(by):
        chunk = PrefillChunk(0, 100, 160, tables[0].numpy(), dtype=torch.bfloat16)
        prefill_attention(qkv, pool.numpy(), 1, chunk, out)

    expected = prefill_attention_twin(qkv[:, : 4 * 64].view(100, 4, 64), pool, 1, tables[0], 60).flatten(1)
    assert 0 < (out - expected).norm() / expected.norm() < 0.01


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition(penalty: float) -> None:
    logits, tokens = np.random.default_rng(0).normal(size=50).astype(np.float32), np.array([3, 7, 3, 49], np.int32)
    expected = logits.copy()
    repetition_twin(expected, tokens, penalty)

    repetition(logits, tokens, penalty)

    np.testing.assert_allclose(logits, expected, rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_logprobs(count: int) -> None:
    logits = torch.randn(3, 40).mul(4).round()  # rounded: equal logits are common
    expected, top_values, top_ids = logprobs_twin(logits, count)

    log_totals, values, ids = logprobs(logits.numpy(), count)

    close(logits.double() - torch.from_numpy(log_totals)[:, None], expected)
    close(torch.from_numpy(values), top_values)
    assert ids.tolist() == top_ids.tolist()
