"""Where a position's key and value lie in the block-major pool `[N, L, 2, K, P, D]`, for the kernels that attend.

The pool is of the type that the model computes in, or of float8 e4m3: rows are then rounded to it when they are stored,
without a scale, and widened when they are loaded. What is larger than 448 is 448.

A block's rows of one head are one contiguous run of P * D items, and its values lie K * P * D items behind its keys.
Strides of the pool are constants of a compiled kernel: they are fixed for as long as a model is served, and the
compiler then knows how far addresses are aligned.
"""

import torch
import triton
import triton.language as tl

from engine.errors import ConfigError
from engine.kernels.eight_bits import LARGEST

LOG2_E = 1.4426950408889634
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
E4M3 = torch.float8_e4m3fn
E4M3_MAX = tl.constexpr(LARGEST[E4M3])
MIN_HEAD_DIM, MAX_HEAD_DIM = 64, 256
ROW_BYTES_STEP = 8
"""A row is whole words of eight bytes, which transfers move."""
HIDDEN = tl.constexpr(-1.0e30)
"""Score of a position that is not attended to: finite, so that a tile with nothing visible makes no NaN."""


@triton.jit
def row_offsets(blocks, positions, BLOCK_STRIDE: tl.constexpr, P: tl.constexpr, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Items from a head's first key in block 0 to its keys at `positions`, which lie in `blocks`; int64.

    Kernels load the blocks of one tile while they compute on the one before. Loaded within the turn that needs them,
    they would take half of the stages that Triton's pipeline has for keys and values.
    """
    return blocks.to(tl.int64) * BLOCK_STRIDE + (positions % P) * D


@triton.jit
def load_rows(base, offsets, D: tl.constexpr, PADDED: tl.constexpr, to: tl.constexpr):  # type: ignore[no-untyped-def]
    """`[rows, PADDED]` items as `to`, zeros behind the first D of a row."""
    columns = tl.arange(0, PADDED)
    pointers = base + offsets[:, None] + columns[None, :]
    rows = tl.load(pointers) if PADDED == D else tl.load(pointers, mask=columns[None, :] < D, other=0.0)
    return rows.to(to)


def check_heads(queries: torch.Tensor, pool: torch.Tensor, out: torch.Tensor) -> None:
    """Refuse by name what the kernels were not made for. `queries` and `out` are `[rows, H, D]`."""
    num_heads, head_dim = queries.shape[1:]
    num_kv_heads = pool.shape[3]
    if pool.dtype not in (*DTYPES, E4M3):
        raise ConfigError(f"KV cache of {pool.dtype} has no GPU attention; there is bfloat16, float16, float32, e4m3")
    widened = DTYPES[:2] if pool.dtype is E4M3 else (pool.dtype,)
    if queries.dtype not in widened or out.dtype != queries.dtype:
        raise ConfigError(f"queries are {queries.dtype} and out is {out.dtype}, but the KV cache is {pool.dtype}")
    step = ROW_BYTES_STEP // min(pool.itemsize, 2)
    if head_dim % step or not MIN_HEAD_DIM <= head_dim <= MAX_HEAD_DIM:
        steps = f"a multiple of {step} from {MIN_HEAD_DIM} to {MAX_HEAD_DIM}"
        raise ConfigError(f"head dimension {head_dim} is not {steps}")
    if num_heads % num_kv_heads:
        raise ConfigError(f"{num_heads} query heads do not share {num_kv_heads} KV heads evenly")
    assert pool.is_contiguous()
    assert head_dim == pool.shape[5]
    assert out.shape == queries.shape
    assert all(tensor.stride()[1:] == (head_dim, 1) for tensor in (queries, out))


def is_hopper(device: torch.device) -> bool:
    """Whether kernels get tiles for sm_90 or newer; so they do where there is no GPU, as in the interpreter."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 9
