"""Causal attention of chunks of several sequences over the paged pool, which holds the chunks' own keys already.

    a_tp = (q_t . k_p) / sqrt(D) for positions t - window < p <= t,   out_t = sum_p softmax(a_t)_p * v_p

FlashAttention-2 (Dao, 2023) with the query heads of a KV head packed: row r of a sequence's work is head r % G of its
token r // G, and a program takes `block_m` such rows of one KV head, so that keys and values are read once for all
heads of the group. It goes over the tiles of keys that all its rows see, without a mask, and then over those on the
diagonal; with a window, also first over those that only some rows still see. Scores are in units of log2, for exp2.

Which rows a program takes is a list made on the host, once per step for all layers: sequences of any lengths fill the
device without gaps, and the longest work starts first.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled
from engine.kernels.gpu.paged import E4M3, HIDDEN, LOG2_E, check_heads, is_hopper, load_rows, row_offsets


def prefill_attention_reference(
    queries: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    block_tables: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    window: int | None = None,
) -> torch.Tensor:
    """As `prefill_attention` for all sequences, in float64; returns `[T, H, D]`."""
    num_heads, head_dim = queries.shape[1:]
    out = torch.zeros(queries.shape, dtype=torch.float64)
    starts = query_starts.tolist()
    for s, (table, end) in enumerate(zip(block_tables, context_lens.tolist(), strict=True)):
        rows = slice(starts[s], starts[s + 1])
        kv = pool[table.long(), layer].double().permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :end]  # [2, K, end, D]
        keys, values = kv.repeat_interleave(num_heads // pool.shape[3], dim=1)
        scores = torch.einsum("nhd,hpd->hnp", queries[rows].double(), keys) * head_dim**-0.5
        distance = torch.arange(end - (rows.stop - rows.start), end)[:, None] - torch.arange(end)
        visible = (distance >= 0) & (distance < (window or end + 1))
        out[rows] = torch.einsum("hnp,hpd->nhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), values)
    return out


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    total,
    peak,
    weight,
    query,
    query_positions,
    keys,
    table,
    begin,
    end,
    oldest,
    newest,
    SCALE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Add what tiles of keys from `begin` on bring; positions outside `oldest` to `newest` are not read."""
    tile = tl.arange(0, BLOCK_N)
    blocks = tl.load(table + tl.minimum(tl.maximum(begin + tile, oldest), newest) // P)
    for start in tl.range(begin, end, BLOCK_N):
        positions = start + tile
        if MASKED:
            offsets = row_offsets(blocks, tl.minimum(tl.maximum(positions, oldest), newest), BLOCK_STRIDE, P, D)
        else:
            offsets = row_offsets(blocks, positions, BLOCK_STRIDE, P, D)
        blocks = tl.load(table + tl.minimum(positions + BLOCK_N, newest) // P)
        key = load_rows(keys, offsets, D, PADDED, query.dtype)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        if MASKED:
            visible = positions[None, :] <= query_positions[:, None]
            if WINDOW > 0:
                visible = visible & (positions[None, :] > query_positions[:, None] - WINDOW)
            score = tl.where(visible, score, HIDDEN)
        higher = tl.maximum(peak, tl.max(score, 1) * SCALE)
        share = tl.exp2(score * SCALE - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink[:, None]
        value = load_rows(keys + K * P * D, offsets, D, PADDED, query.dtype)
        total = tl.dot(share.to(value.dtype), value, total, input_precision=PRECISION)
        weight = weight * shrink + tl.sum(share, 1)
        peak = higher
    return total, peak, weight


@triton.jit(do_not_specialize=["table_stride"])
def prefill_attention_kernel(  # type: ignore[no-untyped-def]
    queries,
    keys,
    block_tables,
    table_stride,
    query_starts,
    context_lens,
    tiles,
    out,
    SCALE: tl.constexpr,
    QUERY_STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    K: tl.constexpr,
    GROUP: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of rows for one KV head; grid (K, tiles)."""
    kv_head = tl.program_id(0)
    sequence = tl.load(tiles + tl.program_id(1) * 2).to(tl.int64)
    first_row = tl.load(tiles + tl.program_id(1) * 2 + 1)
    query_start = tl.load(query_starts + sequence)
    num_tokens = tl.load(query_starts + sequence + 1) - query_start
    start = tl.load(context_lens + sequence) - num_tokens
    table = block_tables + sequence * table_stride
    keys += kv_head * P * D

    rows = first_row + tl.arange(0, BLOCK_M)
    tokens = tl.minimum(rows // GROUP, num_tokens - 1)  # rows behind the last are computed as its, and not stored
    columns = tl.arange(0, PADDED)
    token_rows = (query_start + tokens).to(tl.int64)[:, None]
    at = (kv_head * GROUP + rows % GROUP)[:, None] * D + columns[None, :]
    if PADDED == D:
        query = tl.load(queries + token_rows * QUERY_STRIDE + at)
    else:
        query = tl.load(queries + token_rows * QUERY_STRIDE + at, mask=columns[None, :] < D, other=0.0)
    query_positions = start + tokens
    first_position = start + first_row // GROUP
    newest = start + tl.minimum((first_row + BLOCK_M - 1) // GROUP, num_tokens - 1)

    # oldest ... half ...... full .......... diagonal ... newest: where tiles begin that are masked, whole, masked
    oldest, half, full = 0, 0, 0
    if WINDOW > 0:
        oldest = tl.maximum(first_position - WINDOW + 1, 0)
        half = oldest // BLOCK_N * BLOCK_N
        full = tl.cdiv(tl.maximum(newest - WINDOW + 1, 0), BLOCK_N) * BLOCK_N
    diagonal = tl.maximum((first_position + 1) // BLOCK_N * BLOCK_N, full)

    peak = tl.full([BLOCK_M], HIDDEN, tl.float32)
    weight = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M, PADDED], tl.float32)
    # fmt: off
    if WINDOW > 0:
        until = tl.minimum(full, newest + 1)
        total, peak, weight = _attend(
            total, peak, weight, query, query_positions, keys, table, half, until, oldest, newest,
            SCALE, BLOCK_STRIDE, K, P, D, PADDED, WINDOW, BLOCK_N, PRECISION, True,
        )
    total, peak, weight = _attend(
        total, peak, weight, query, query_positions, keys, table, full, diagonal, oldest, newest,
        SCALE, BLOCK_STRIDE, K, P, D, PADDED, WINDOW, BLOCK_N, PRECISION, False,
    )
    total, peak, weight = _attend(
        total, peak, weight, query, query_positions, keys, table, diagonal, newest + 1, oldest, newest,
        SCALE, BLOCK_STRIDE, K, P, D, PADDED, WINDOW, BLOCK_N, PRECISION, True,
    )
    # fmt: on
    total = total / weight[:, None]
    is_item = (rows < num_tokens * GROUP)[:, None] & (columns[None, :] < D)
    tl.store(out + token_rows * OUT_STRIDE + at, total.to(out.dtype.element_ty), mask=is_item)


@dataclass(frozen=True, slots=True)
class Tile:
    """How the kernel is compiled for one class of shapes."""

    block_m: int
    """Rows of a program: tokens times query heads of a group."""
    block_n: int
    """Positions at a time; a multiple of the usual block sizes, so that a tile begins with a block."""
    num_warps: int
    num_stages: int


TILES = {
    # (is sm_90 or newer, head dimension): the largest that leave no register spilled, with a window or without
    (True, 64): Tile(128, 128, 8, 3),
    (True, 128): Tile(128, 64, 8, 3),
    (True, 256): Tile(128, 32, 8, 3),
    (False, 64): Tile(128, 64, 8, 3),
    (False, 128): Tile(128, 32, 8, 3),
    (False, 256): Tile(64, 32, 8, 2),
}
FLOAT32_TILE = Tile(16, 16, 8, 2)
"""For products in true float32, which no matrix unit has: to compare with, not to serve with."""
CANDIDATES = [
    triton.Config({"BLOCK_M": block_m, "BLOCK_N": block_n}, num_warps=num_warps, num_stages=num_stages)
    for block_m, num_warps in ((64, 4), (128, 4), (128, 8), (256, 8))
    for block_n in (32, 64, 128)
    for num_stages in (2, 3, 4)
]
"""What a bench should try before `TILES` is changed."""


def choose_tile(pool: torch.Tensor) -> Tile:
    """For the pool's device, type and head dimension."""
    if pool.dtype == torch.float32:
        return FLOAT32_TILE
    return _tile(is_hopper(pool.device), pool.shape[5], is_widened=pool.dtype is E4M3)


def _tile(is_for_hopper: bool, head_dim: int, *, is_widened: bool) -> Tile:
    tile = TILES[is_for_hopper, triton.next_power_of_2(head_dim)]
    # Rows that are no multiple of 32 bytes come in smaller parts, whose addresses take registers; so does widening.
    takes_registers = head_dim % 16 or (is_widened and head_dim > 128)
    return replace(tile, block_m=tile.block_m // 2) if is_for_hopper and takes_registers else tile


def list_tiles(
    query_starts: np.ndarray, context_lens: np.ndarray, num_decode: int, group: int, block_m: int
) -> np.ndarray:
    """What programs take, `[tiles, 2]` int32: a sequence and the first of its rows; those with most to read first.

    For the sequences of a `Batch` behind the first `num_decode`, whose single rows are decode attention's.
    """
    starts = query_starts[num_decode:].astype(np.int64)
    tokens = starts[1:] - starts[:-1]
    counts = -(-tokens * group // block_m)
    owners = np.repeat(np.arange(len(tokens)), counts)
    firsts = (np.arange(len(owners)) - (np.cumsum(counts) - counts)[owners]) * block_m
    sequences = num_decode + owners
    reads = context_lens[sequences] - tokens[owners] + firsts // group
    order = np.argsort(-reads, kind="stable")
    return np.stack((sequences, firsts), axis=1)[order].astype(np.int32)


def prefill_attention(
    queries: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    block_tables: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    tiles: torch.Tensor,
    out: torch.Tensor,
    window: int | None = None,
) -> None:
    """Write the rows of `out` `[T, H, D]` that `tiles` names: what those of `queries` `[T, H, D]` attend to.

    Either may be a part of longer rows. `pool` is `[N, L, 2, K, P, D]` of the queries' type or e4m3, `block_tables`
    `[S, max blocks]`, `query_starts` `[S + 1]` and `context_lens` `[S]` are those of `Batch`, all int32: a sequence's
    rows are the last of its `context_lens` positions. `tiles` is `list_tiles` with this pool's
    `choose_tile(pool).block_m`, without which rows would be left out. With a `window` a position sees only so many,
    itself included. Raises ConfigError for shapes and types that the kernel was not made for.
    """
    check_heads(queries, pool, out)
    num_heads, head_dim = queries.shape[1:]
    num_kv_heads, block_tokens = pool.shape[3:5]
    assert block_tables.stride(1) == 1
    assert tiles.is_contiguous()
    if len(tiles) == 0:
        return
    tile = choose_tile(pool)
    prefill_attention_kernel[num_kv_heads, len(tiles)](
        queries,
        pool[:, layer],
        block_tables,
        block_tables.stride(0),
        query_starts,
        context_lens,
        tiles,
        out,
        SCALE=head_dim**-0.5 * LOG2_E,
        QUERY_STRIDE=queries.stride(0),
        OUT_STRIDE=out.stride(0),
        BLOCK_STRIDE=pool.stride(0),
        K=num_kv_heads,
        GROUP=num_heads // num_kv_heads,
        P=block_tokens,
        D=head_dim,
        PADDED=triton.next_power_of_2(head_dim),
        WINDOW=window or 0,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        PRECISION="ieee" if pool.dtype == torch.float32 else None,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        enable_fp_fusion=True,
    )


def _compiled(
    head_dim: int, group: int, chip: int, *, window: int = 0, item: str = "bf16", kept: str | None = None
) -> Compiled:
    """The kernel for one shape on one chip: 8 KV heads, 32 layers, blocks of 16."""
    padded = triton.next_power_of_2(head_dim)
    tile = FLOAT32_TILE if item == "fp32" else _tile(chip >= 90, head_dim, is_widened=kept is not None)
    of_step = dict.fromkeys(("block_tables", "query_starts", "context_lens", "tiles"), "*i32")
    kinds = {"queries": f"*{item}", "keys": f"*{kept or item}", "out": f"*{item}"}
    signature = {**kinds, **of_step, "table_stride": "i32"}
    rows = {"SCALE": head_dim**-0.5 * LOG2_E, "QUERY_STRIDE": 8 * (group + 2) * head_dim}
    shape = {"D": head_dim, "PADDED": padded, "OUT_STRIDE": 8 * group * head_dim, "WINDOW": window}
    pool = {"K": 8, "GROUP": group, "P": 16, "BLOCK_STRIDE": 32 * 2 * 8 * 16 * head_dim}
    blocks = {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "PRECISION": "ieee" if item == "fp32" else None}
    constants = {**rows, **shape, **pool, **blocks}
    return Compiled(prefill_attention_kernel, signature, constants, tile.num_warps, tile.num_stages, (chip,))


COMPILED: tuple[Compiled, ...] = tuple(
    one
    for chip in (80, 90)
    for one in (
        *(_compiled(head_dim, group, chip) for head_dim in (64, 128, 256) for group in (1, 4, 8)),
        *(_compiled(head_dim, 4, chip, window=4096) for head_dim in (64, 128, 256)),
        *(_compiled(head_dim, 3, chip) for head_dim in (96, 100, 252)),
        *(_compiled(head_dim, 4, chip, item="fp32") for head_dim in (64, 128, 256)),
        *((_compiled(head_dim, 4, chip, kept="fp8e4nv") for head_dim in (64, 128, 256)) if chip >= 90 else ()),
    )
)
