"""Rules out every token of a row but those of a bit mask, as `engine/kernels/keep.py` does.

x_i <- x_i if bit i mod 32 of word i div 32 of the row's mask is set, else -inf
"""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

_BLOCK = 1024


def keep_reference(logits: torch.Tensor, rows: torch.Tensor, masks: torch.Tensor) -> None:
    tokens = torch.arange(logits.shape[1], device=logits.device)
    for row, mask in zip(rows.tolist(), masks, strict=True):
        logits[row, (mask[tokens >> 5] >> (tokens & 31).int()) & 1 == 0] = float("-inf")


@triton.jit
def _keep(logits, rows, masks, size, words, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    index = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + index)
    tokens = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = tokens < size
    bits = tl.load(masks + index * words + (tokens >> 5), inside, 0)
    forbidden = ((bits >> (tokens & 31)) & 1) == 0
    tl.store(logits + row * size + tokens, float("-inf"), inside & forbidden)


def keep(logits: torch.Tensor, rows: torch.Tensor, masks: torch.Tensor) -> None:
    """Apply `masks` `[n, words]` int32 to so many `rows` `[n]` int64 of `logits` `[R, V]` float32, in place."""
    size = logits.shape[1]
    assert logits.dtype is torch.float32
    assert masks.shape[1] * 32 >= size
    assert all(tensor.is_contiguous() for tensor in (logits, rows, masks))
    if len(rows):
        _keep[(len(rows), triton.cdiv(size, _BLOCK))](
            logits, rows, masks, size, masks.shape[1], BLOCK=_BLOCK, num_warps=4
        )


_TYPES = {"logits": "*fp32", "rows": "*i64", "masks": "*i32", "size": "i32:16", "words": "i32"}
COMPILED = (
    Compiled(_keep, _TYPES, {"BLOCK": _BLOCK}),
    Compiled(_keep, {**_TYPES, "words": "i32:16"}, {"BLOCK": _BLOCK}),
)
