"""The tokens of a step that continues one whose tokens are on the device alone:  t_i <- before[c_i]  where c_i >= 0."""

import torch
import triton
import triton.language as tl

from engine.kernels.gpu.compiled import Compiled

_BLOCK = 256


def take_tokens_reference(token_ids: torch.Tensor, continues: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    rows = zip(token_ids.tolist(), continues.tolist(), strict=True)
    taken = [int(before[row]) if row >= 0 else token for token, row in rows]
    return torch.tensor(taken, dtype=token_ids.dtype, device=token_ids.device)


@triton.jit(do_not_specialize=["count"])
def _take_tokens(token_ids, continues, before, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    entries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows = tl.load(continues + entries, entries < count, -1)
    tokens = tl.load(before + rows, rows >= 0, 0)
    tl.store(token_ids + entries, tokens.to(token_ids.dtype.element_ty), rows >= 0)


def take_tokens(token_ids: torch.Tensor, continues: torch.Tensor, before: torch.Tensor) -> None:
    """Replace those of `token_ids` `[T]` int32 whose `continues` `[T]` int32 is a row of `before` `[R]` int64.

    Rows are not checked against R; below 0 they leave the token as it is.
    """
    count = len(token_ids)
    assert continues.shape == token_ids.shape
    assert all(tensor.is_contiguous() for tensor in (token_ids, continues, before))
    if count:
        _take_tokens[(triton.cdiv(count, _BLOCK),)](token_ids, continues, before, count, BLOCK=_BLOCK, num_warps=4)


_TYPES = {"token_ids": "*i32", "continues": "*i32", "before": "*i64", "count": "i32"}
COMPILED = (Compiled(_take_tokens, _TYPES, {"BLOCK": _BLOCK}),)
