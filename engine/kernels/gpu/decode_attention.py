"""Attention of one new token per sequence over the paged pool, each context split among programs (flash-decoding).

    a_p = (q . k_p) / sqrt(D) for the visible positions p,   out = sum_p softmax(a)_p * v_p

A program takes one run of positions of one sequence and one KV head, for all the query heads that share it: each key
and value is read once. It leaves (m, l, acc): the largest score, the sum of the weights below it and the unnormalised
sum, in float32; a second kernel joins the runs of a sequence. What counts is memory: 512 bytes of bfloat16 rows per
position at D = 128, which an H200 brings at about 18 bytes a clock and multiprocessor.

The products are `tl.dot` with the group's heads padded to 16 rows, whatever the group. Two positions then cost 4
matrix instructions, a tenth of the tensor cores at that rate, and rows go by `cp.async` into shared memory: two tiles
of keys and values a program, 70 KB, of which one is always on its way; three programs on a multiprocessor keep some
100 KB in flight, where bandwidth times latency is about 35. A sum of products on the plain cores costs a conversion
per item and, per head, four shuffles for two rows: at 8 heads more than half of all issue slots, and what is in flight
sits in registers. These are estimates from the chip's tables, to be held against a measurement.

Scores are in units of log2, for exp2.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled
from engine.kernels.gpu.early import await_others
from engine.kernels.gpu.paged import HIDDEN, LOG2_E, check_heads, is_hopper, load_rows, row_offsets
from engine.kernels.gpu.runs import MIN_RUN, Workspace

JOIN_TILE = 16
"""Runs that are joined at a time."""
JOIN_WARPS = 2


def decode_attention_reference(
    queries: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    window: int | None = None,
) -> torch.Tensor:
    """As `decode_attention`, in float64; returns `[S, H, D]`."""
    num_heads, head_dim = queries.shape[1:]
    out = torch.zeros(queries.shape, dtype=torch.float64)
    for row, (table, length) in enumerate(zip(block_tables, context_lens.tolist(), strict=True)):
        if length == 0:
            continue
        kv = pool[table.long(), layer].double().permute(1, 2, 0, 3, 4).flatten(2, 3)  # [2, K, positions, D]
        visible = kv[:, :, max(0, length - (window or length)) : length]
        keys, values = visible.repeat_interleave(num_heads // pool.shape[3], dim=1)
        weights = (torch.einsum("hd,hpd->hp", queries[row].double(), keys) * head_dim**-0.5).softmax(-1)
        out[row] = torch.einsum("hp,hpd->hd", weights, values)
    return out


@triton.jit
def _runs(length, WINDOW: tl.constexpr, SPLITS: tl.constexpr, RUN: tl.constexpr, BLOCK_N: tl.constexpr):  # type: ignore[no-untyped-def]
    """First visible position of a sequence, and positions in each of its runs: `SPLITS` of them, or fewer of `RUN`."""
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(length - WINDOW, 0)
    run = tl.cdiv(tl.cdiv(length - begin, SPLITS), BLOCK_N) * BLOCK_N
    return begin, tl.maximum(run, RUN)


@triton.jit(do_not_specialize=["table_stride"])
def decode_attention_kernel(  # type: ignore[no-untyped-def]
    queries,
    keys,
    block_tables,
    table_stride,
    context_lens,
    totals,
    peaks,
    weights,
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
    SPLITS: tl.constexpr,
    RUN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One run; grid (K, SPLITS, S). A program whose run lies behind the sequence's end returns at once."""
    if EARLY:
        await_others()
    kv_head, split, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.load(context_lens + sequence)
    begin, run = _runs(length, WINDOW, SPLITS, RUN, BLOCK_N)
    first = begin + split * run
    if SPLITS > 1:  # noqa: SIM102 - this one is decided while compiling
        if first >= length:
            return
    last = tl.minimum(first + run, length)

    heads, columns = tl.arange(0, ROWS), tl.arange(0, PADDED)
    of_group = heads[:, None] < GROUP
    at = (kv_head * GROUP + heads[:, None]) * D + columns[None, :]
    is_item = of_group & (columns[None, :] < D)
    query = tl.load(queries + sequence * QUERY_STRIDE + at, mask=is_item, other=0.0)
    keys += kv_head * P * D
    table = block_tables + sequence * table_stride

    peak = tl.full([ROWS], HIDDEN, tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS, PADDED], tl.float32)
    tile = tl.arange(0, BLOCK_N)
    final = tl.maximum(last - 1, 0)
    # Behind the end the last row again: it is there, and initialised.
    blocks = tl.load(table + tl.minimum(first + tile, final) // P)
    for start in tl.range(first, last, BLOCK_N):
        positions = start + tile
        offsets = row_offsets(blocks, tl.minimum(positions, final), BLOCK_STRIDE, P, D)
        blocks = tl.load(table + tl.minimum(positions + BLOCK_N, final) // P)
        key = load_rows(keys, offsets, D, PADDED, query.dtype)
        value = load_rows(keys + K * P * D, offsets, D, PADDED, query.dtype)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * SCALE
        score = tl.where(positions[None, :] < last, score, HIDDEN)
        higher = tl.maximum(peak, tl.max(score, 1))
        share = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(peak - higher)
        weight = weight * shrink + tl.sum(share, 1)
        total = tl.dot(share.to(value.dtype), value, total * shrink[:, None], input_precision=PRECISION)
        peak = higher

    if SPLITS == 1:
        normal = total / tl.maximum(weight, 1e-30)[:, None]  # 0 where nothing is visible: the padding of a batch
        tl.store(out + sequence * OUT_STRIDE + at, normal.to(out.dtype.element_ty), mask=is_item)
    else:
        row = ((sequence * SPLITS + split) * K + kv_head) * GROUP + heads
        tl.store(totals + row[:, None] * D + columns[None, :], total, mask=is_item)
        tl.store(peaks + row, peak, mask=heads < GROUP)
        tl.store(weights + row, weight, mask=heads < GROUP)


@triton.jit
def join_kernel(  # type: ignore[no-untyped-def]
    context_lens,
    totals,
    peaks,
    weights,
    out,
    OUT_STRIDE: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    PADDED: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLITS: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TILE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Normalise the sum over the runs of one head of one sequence; grid (H, S)."""
    if EARLY:
        await_others()
    head, sequence = tl.program_id(0), tl.program_id(1).to(tl.int64)
    length = tl.load(context_lens + sequence)
    begin, run = _runs(length, WINDOW, SPLITS, RUN, BLOCK_N)
    num_runs = tl.cdiv(length - begin, run)
    columns = tl.arange(0, PADDED)
    peak, weight = tl.full((), HIDDEN, tl.float32), tl.zeros((), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    for first in tl.range(0, num_runs, TILE):
        runs = first + tl.arange(0, TILE)
        rows = (sequence * SPLITS + runs) * H + head
        run_peaks = tl.load(peaks + rows, mask=runs < num_runs, other=HIDDEN)
        run_weights = tl.load(weights + rows, mask=runs < num_runs, other=0.0)
        is_item = (runs[:, None] < num_runs) & (columns[None, :] < D)
        run_totals = tl.load(totals + rows[:, None] * D + columns[None, :], mask=is_item, other=0.0)
        higher = tl.maximum(peak, tl.max(run_peaks, 0))
        share, shrink = tl.exp2(run_peaks - higher), tl.exp2(peak - higher)
        weight = weight * shrink + tl.sum(run_weights * share, 0)
        total = total * shrink + tl.sum(run_totals * share[:, None], 0)
        peak = higher
    normal = total / tl.maximum(weight, 1e-30)
    at = out + sequence * OUT_STRIDE + head * D + columns
    tl.store(at, normal.to(out.dtype.element_ty), mask=columns < D)


@dataclass(frozen=True, slots=True)
class Tile:
    """How one kernel is compiled for one class of shapes."""

    block_n: int
    """Positions at a time; a power of two."""
    num_warps: int
    num_stages: int


TILES = {
    # (is sm_90 or newer, head dimension): 64 KB of tiles, three programs of which fit into 227 KB; half that for 163 KB
    (True, 64): Tile(128, 4, 3),
    (True, 128): Tile(64, 4, 3),
    (True, 256): Tile(32, 4, 3),
    (False, 64): Tile(64, 4, 3),
    (False, 128): Tile(32, 4, 3),
    (False, 256): Tile(16, 4, 3),
}
FLOAT32_TILE = Tile(16, 8, 3)
"""For products in true float32, which no matrix unit has: to compare with, not to serve with."""
CANDIDATES = [
    triton.Config({"BLOCK_N": block_n}, num_warps=num_warps, num_stages=num_stages)
    for block_n in (32, 64, 128)
    for num_warps in (2, 4, 8)
    for num_stages in (2, 3, 4, 5)
]
"""What a bench should try before `TILES` is changed."""


def choose_tile(pool: torch.Tensor) -> Tile:
    """For the pool's device, type and head dimension."""
    if pool.dtype == torch.float32:
        return FLOAT32_TILE
    return TILES[is_hopper(pool.device), triton.next_power_of_2(pool.shape[5])]


def decode_attention(
    queries: torch.Tensor,
    pool: torch.Tensor,
    layer: int,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    workspace: Workspace,
    splits: int,
    window: int | None = None,
    *,
    is_early: bool = False,
) -> None:
    """Write `out` `[S, H, D]`: what `queries` `[S, H, D]` attend to; either may be a part of longer rows.

    `pool` is `[N, L, 2, K, P, D]` of the queries' type or e4m3, `block_tables` `[S, max blocks]` int32; `context_lens`
    `[S]` int32 are the positions of each sequence, the new one included, and 0 for a row of padding, whose `out` is 0.
    With a `window` only the last so many are visible. `splits` is what `choose_splits` says, and `workspace` has `S *
    splits` rows or more. `is_early`: as `early.py` has it. Raises ConfigError for shapes and types that the kernel was
    not made for.
    """
    check_heads(queries, pool, out)
    num_sequences, num_heads, head_dim = queries.shape
    _, _, _, num_kv_heads, block_tokens, _ = pool.shape
    assert block_tables.stride(1) == 1
    assert splits == 1 or len(workspace.totals) >= num_sequences * splits
    if num_sequences == 0:
        return
    tile = choose_tile(pool)
    group = num_heads // num_kv_heads
    runs = {"WINDOW": window or 0, "SPLITS": splits, "RUN": MIN_RUN, "BLOCK_N": tile.block_n, "EARLY": is_early}
    shape = {"D": head_dim, "PADDED": triton.next_power_of_2(head_dim), "OUT_STRIDE": out.stride(0)}
    partial = workspace.totals, workspace.peaks, workspace.weights
    decode_attention_kernel[num_kv_heads, splits, num_sequences](
        queries,
        pool[:, layer],
        block_tables,
        block_tables.stride(0),
        context_lens,
        *partial,
        out,
        SCALE=head_dim**-0.5 * LOG2_E,
        QUERY_STRIDE=queries.stride(0),
        BLOCK_STRIDE=pool.stride(0),
        K=num_kv_heads,
        GROUP=group,
        P=block_tokens,
        ROWS=max(16, triton.next_power_of_2(group)),
        PRECISION="ieee" if pool.dtype == torch.float32 else None,
        **shape,
        **runs,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        enable_fp_fusion=True,
        launch_pdl=is_early,
    )
    if splits > 1:
        join_kernel[num_heads, num_sequences](
            context_lens,
            *partial,
            out,
            H=num_heads,
            TILE=JOIN_TILE,
            **shape,
            **runs,
            num_warps=JOIN_WARPS,
            enable_fp_fusion=True,
            launch_pdl=is_early,
        )


def _compiled(
    head_dim: int,
    group: int,
    chip: int,
    *,
    splits: int = 4,
    window: int = 0,
    item: str = "bf16",
    kept: str | None = None,
    is_early: bool = False,
) -> list[Compiled]:
    """The kernels for one shape on one chip: 8 KV heads, 32 layers, blocks of 16."""
    padded = triton.next_power_of_2(head_dim)
    tile = FLOAT32_TILE if item == "fp32" else TILES[chip >= 90, padded]
    partial = {**dict.fromkeys(("totals", "peaks", "weights"), "*fp32"), "context_lens": "*i32", "out": f"*{item}"}
    tensors = {
        **partial,
        "queries": f"*{item}",
        "keys": f"*{kept or item}",
        "block_tables": "*i32",
        "table_stride": "i32",
    }
    runs = {"WINDOW": window, "SPLITS": splits, "RUN": MIN_RUN, "BLOCK_N": tile.block_n, "EARLY": is_early}
    shape = {"D": head_dim, "PADDED": padded, "OUT_STRIDE": 8 * group * head_dim, **runs}
    pool = {"K": 8, "GROUP": group, "P": 16, "BLOCK_STRIDE": 32 * 2 * 8 * 16 * head_dim}
    rows = {"ROWS": max(16, triton.next_power_of_2(group)), "QUERY_STRIDE": 8 * (group + 2) * head_dim}
    products = {"SCALE": head_dim**-0.5 * LOG2_E, "PRECISION": "ieee" if item == "fp32" else None}
    attend = {**pool, **rows, **products, **shape}
    join = {"H": 8 * group, "TILE": JOIN_TILE, **shape}
    made = [Compiled(decode_attention_kernel, tensors, attend, tile.num_warps, tile.num_stages, (chip,))]
    if splits > 1:
        made.append(Compiled(join_kernel, partial, join, JOIN_WARPS, capabilities=(chip,)))
    return made


COMPILED: tuple[Compiled, ...] = tuple(
    one
    for chip in (80, 90)
    for ones in (
        *(_compiled(head_dim, group, chip, splits=1) for head_dim in (64, 128, 256) for group in (1, 4, 8)),
        *(_compiled(head_dim, 4, chip) for head_dim in (64, 128, 256)),
        _compiled(128, 4, chip, window=4096),
        _compiled(96, 3, chip),
        _compiled(100, 3, chip, splits=1),
        _compiled(128, 32, chip),
        *(_compiled(head_dim, 4, chip, item="fp32", splits=1) for head_dim in (64, 128, 256)),
        *((_compiled(128, 4, chip, is_early=True),) if chip >= 90 else ()),
        *((_compiled(head_dim, 4, chip, kept="fp8e4nv") for head_dim in (64, 128, 256)) if chip >= 90 else ()),
    )
    for one in ones
)
