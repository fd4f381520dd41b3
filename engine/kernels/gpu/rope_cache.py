"""Rotate queries and keys by position and store keys and values in their slots.

For a head x of 2h numbers at position t, with c = cos(t * w_i) and s = sin(t * w_i) for i < h:

    x_i, x_(h+i)  <-  x_i * c - x_(h+i) * s,  x_(h+i) * c + x_i * s

Where the model asks for it, each query and key head is RMS-normalised first. In float32, rounded once. One program has
some heads of one token; what a head is (query, key or value) follows from its number.
"""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled
from engine.kernels.gpu.early import await_others
from engine.kernels.gpu.paged import E4M3, E4M3_MAX
from engine.kernels.gpu.quantize import e4m3_bits

FEW_TOKENS = 256
_WIDEST = 256
_PAIRS_OF_FEW, _PAIRS_OF_MANY = 256, 1024
"""Pairs of numbers that one program rotates: few tokens are spread over more programs."""
CONFIGS = tuple(triton.Config({"HEADS": heads}, num_warps=warps) for heads in (2, 4, 8, 16) for warps in (2, 4))
"""For the bench to try."""


def rope_cache_reference(
    qkv: torch.Tensor,
    table: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    head_norms: torch.Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """Arguments as for `rope_cache`; `qkv` and `pool` change in place."""
    num_kv_heads, block_tokens, head_dim = pool.shape[3:]
    heads = qkv.view(len(qkv), qkv.shape[1] // head_dim, head_dim)  # [T, H + 2K, D]
    num_heads = heads.shape[1] - 2 * num_kv_heads
    half = head_dim // 2
    exact = heads.double()
    rotated = exact[:, : num_heads + num_kv_heads]
    if head_norms is not None:
        query, key = head_norms.double()
        weights = torch.cat((query.expand(num_heads, -1), key.expand(num_kv_heads, -1)))
        rotated *= torch.rsqrt(rotated.pow(2).mean(-1, keepdim=True) + eps) * weights
    cos, sin = table[positions, None, :half].double(), table[positions, None, half:].double()
    first, second = rotated[..., :half].clone(), rotated[..., half:].clone()
    rotated[..., :half] = first * cos - second * sin
    rotated[..., half:] = second * cos + first * sin
    heads[:, :num_heads] = exact[:, :num_heads].to(qkv.dtype)
    kept = slots >= 0
    kv = exact[kept, num_heads:].view(-1, 2, num_kv_heads, head_dim)
    kv = (kv.float().clamp(-E4M3_MAX.value, E4M3_MAX.value) if pool.dtype is E4M3 else kv).to(pool.dtype)
    pool[slots[kept] // block_tokens, layer, :, :, slots[kept] % block_tokens] = kv


@triton.jit
def _rope_cache(  # type: ignore[no-untyped-def]
    qkv,
    table,
    positions,
    slots,
    pool,
    head_norms,
    eps,
    num_heads,
    num_kv_heads,
    half,
    block_tokens,
    block_stride,
    kind_stride,
    head_stride,
    slot_stride,
    layer_start,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        await_others()
    row = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    columns = tl.arange(0, HALF)[None, :]
    all_heads = num_heads + 2 * num_kv_heads
    inside = (heads < all_heads) & (columns < half)
    start = qkv + (row * all_heads + heads) * 2 * half + columns
    raw_first = tl.load(start, inside, 0.0).to(tl.float32)
    raw_second = tl.load(start + half, inside, 0.0).to(tl.float32)
    is_query, is_value = heads < num_heads, heads >= num_heads + num_kv_heads

    first, second = raw_first, raw_second
    if head_norms is not None:
        square = tl.sum(first * first + second * second, 1)[:, None]
        scale = tl.rsqrt(square / (2 * half) + eps)
        weight = head_norms + tl.where(is_query, 0, 2 * half) + columns
        first *= scale * tl.load(weight, inside, 0.0).to(tl.float32)
        second *= scale * tl.load(weight + half, inside, 0.0).to(tl.float32)
    turn = table + tl.load(positions + row).to(tl.int64) * 2 * half + columns
    cos = tl.load(turn, columns < half, 0.0)
    sin = tl.load(turn + half, columns < half, 0.0)
    turned_first = tl.where(is_value, raw_first, first * cos - second * sin)
    turned_second = tl.where(is_value, raw_second, second * cos + first * sin)

    query_type: tl.constexpr = qkv.dtype.element_ty
    tl.store(start, turned_first.to(query_type), inside & is_query)
    tl.store(start + half, turned_second.to(query_type), inside & is_query)
    slot = tl.load(slots + row).to(tl.int64)
    kind = is_value.to(tl.int64)
    head = heads - num_heads - kind * num_kv_heads
    to = pool + layer_start + (slot // block_tokens) * block_stride + (slot % block_tokens) * slot_stride
    to = to + kind * kind_stride + head * head_stride + columns
    stored = inside & (heads >= num_heads) & (columns < tl.where(slot >= 0, half, 0))
    pool_type: tl.constexpr = pool.dtype.element_ty
    tl.store(to, _kept(turned_first, pool_type), stored)
    tl.store(to + half, _kept(turned_second, pool_type), stored)


@triton.jit
def _kept(x, to: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rounded to the pool's type; what is too large for float8 is its largest."""
    if to == tl.float8e4nv:
        x = tl.minimum(tl.maximum(x, -E4M3_MAX), E4M3_MAX)
        kept = e4m3_bits(x).to(to, bitcast=True)
    else:
        kept = x.to(to)
    return kept


def rope_cache(
    qkv: torch.Tensor,
    table: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    head_norms: torch.Tensor | None = None,
    eps: float = 0.0,
    *,
    is_early: bool = False,
) -> None:
    """Rotate the queries of `qkv` `[T, (H + 2K) * D]` in place; store its keys, rotated, and its values in `layer` of
    `pool` `[N, L, 2, K, P, D]`, of any float type or e4m3. The keys of `qkv` stay as they were.

    `table` `[max context, D]` float32 holds the cosines of each position, then its sines; `positions` and `slots` are
    `[T]`, of a slot below 0 nothing is stored; `head_norms` `[2, D]` are the weights of the query norm and of the key
    norm. `is_early`: as `early.py` has it.
    """
    num_kv_heads, block_tokens, head_dim = pool.shape[3:]
    num_rows, width = qkv.shape
    assert head_dim % 2 == 0, f"heads of {head_dim} numbers: no halves to rotate"
    assert head_dim <= _WIDEST, f"heads of {head_dim} numbers: {_WIDEST} at most"
    assert width % head_dim == 0
    assert table.shape[1] == head_dim
    assert positions.shape == slots.shape == (num_rows,)
    assert head_norms is None or head_norms.shape == (2, head_dim)
    assert pool.stride(5) == 1
    assert all(tensor is None or tensor.is_contiguous() for tensor in (qkv, table, positions, slots, head_norms))
    if num_rows:
        all_heads = width // head_dim
        half = triton.next_power_of_2(head_dim // 2)
        heads = (_PAIRS_OF_FEW if num_rows <= FEW_TOKENS else _PAIRS_OF_MANY) // half
        _rope_cache[(num_rows, triton.cdiv(all_heads, heads))](
            qkv,
            table,
            positions,
            slots,
            pool,
            head_norms,
            eps,
            all_heads - 2 * num_kv_heads,
            num_kv_heads,
            head_dim // 2,
            block_tokens,
            pool.stride(0),
            pool.stride(2),
            pool.stride(3),
            pool.stride(4),
            layer * pool.stride(1),
            HEADS=heads,
            HALF=half,
            EARLY=is_early,
            num_warps=_num_warps(heads * half),
            launch_pdl=is_early,
        )


def _num_warps(num_pairs: int) -> int:
    return 2 if num_pairs <= _PAIRS_OF_FEW else 4


_COUNTS = ("num_heads", "num_kv_heads", "block_tokens")
_SIZES = ("half", "kind_stride", "head_stride", "slot_stride")


def _compiled(
    heads: int,
    half: int,
    with_norms: bool,
    index: str = "*i64",
    *,
    pool: str = "*bf16",
    is_early: bool = False,
) -> Compiled:
    signature = {"qkv": "*bf16", "table": "*fp32", "positions": index, "slots": index, "pool": pool, "eps": "fp32"}
    signature |= dict.fromkeys(_COUNTS, "i32") | dict.fromkeys(_SIZES, "i32:16")
    signature |= {"block_stride": "i64:16", "layer_start": "i64:16"}
    constants: dict[str, object] = {"HEADS": heads, "HALF": half, "EARLY": is_early}
    if with_norms:
        signature["head_norms"] = "*bf16"
    else:
        constants["head_norms"] = None
    capabilities = (90,) if is_early or pool == "*fp8e4nv" else (80, 90)
    return Compiled(_rope_cache, signature, constants, _num_warps(heads * half), capabilities=capabilities)


COMPILED = (
    _compiled(4, 64, True),
    _compiled(16, 64, False),
    _compiled(16, 64, True),
    _compiled(8, 128, True),
    _compiled(4, 64, True, "*i32"),  # as the engine's inputs are
    _compiled(16, 64, False, "*i32"),
    _compiled(4, 64, False, "*i32", is_early=True),
    _compiled(4, 64, False, "*i32", pool="*fp8e4nv"),
    _compiled(16, 64, False, "*i32", pool="*fp8e4nv"),
)
