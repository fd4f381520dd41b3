"""Operations that only CUDA has, with what it asks of their arguments."""

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten
_MULTIPLE = 16


def checked(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any]:
    """What computes `func` on a CPU; raises what CUDA says of arguments that it does not take."""
    check, run = _OPERATIONS.get(func, (None, func))
    if check is not None:
        check(*args, **kwargs)
    return run


def _require(is_met: bool, words: str) -> None:
    if not is_met:
        raise RuntimeError(words)


def _check_mm(a: torch.Tensor, b: torch.Tensor, out_dtype: torch.dtype, out: torch.Tensor | None = None) -> None:
    _require(a.dtype == b.dtype, "expected m1 and m2 to have the same dtype")
    is_wider = out_dtype is torch.float32 and a.dtype in (torch.float16, torch.bfloat16)
    _require(out_dtype == a.dtype or is_wider, "out_dtype must be the same as input dtype or fp32 for fp16/bf16 inputs")
    _require(out is None or out.dtype == out_dtype, "out dtype and out_dtype do not match")


def _mm(a: torch.Tensor, b: torch.Tensor, out_dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
    product = torch.mm(a.to(out_dtype), b.to(out_dtype))
    return product if out is None else out.copy_(product)


def _check_scaled_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale_result: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
    out: torch.Tensor | None = None,
) -> None:
    """Of a scale for each row and column, or of one for all."""
    _require(a.dtype == b.dtype == torch.float8_e4m3fn, "Expected both to be float8_e4m3fn")
    _require(a.stride(1) == 1 and a.stride(0) >= a.shape[1], "Expected mat1 to be row-major")
    _require(b.stride(0) == 1 and b.stride(1) >= b.shape[0], "Expected mat2 to be col-major")
    _require(a.shape[1] == b.shape[0], "mat1 and mat2 shapes cannot be multiplied")
    _require(a.shape[1] % _MULTIPLE == 0, f"trailing dimension of mat1 to be divisible by 16, got {a.shape[1]}")
    _require(all(size % _MULTIPLE == 0 for size in b.shape), f"mat2 shape {tuple(b.shape)} must be divisible by 16")
    _require(scale_a.dtype == scale_b.dtype == torch.float32, "Both scale_a and scale_b must be float (fp32) tensors.")
    if scale_a.numel() == scale_b.numel() == 1:
        _require(out_dtype in (torch.bfloat16, torch.float16, torch.float32), "Unsupported output type")
        _require(bias is None or out_dtype is not torch.float32, "Bias is not supported when out_dtype is Float32")
        return
    by_row = scale_a.shape == (len(a), 1) and scale_b.shape == (1, b.shape[1])
    _require(by_row, "For RowWise scaling, scale_a should be (M, 1) and scale_b (1, N)")
    _require(scale_a.is_contiguous() and scale_b.is_contiguous(), "Both scale_a and scale_b must be contiguous")
    _require(out_dtype is torch.bfloat16, "Only bf16 high precision output types are supported for row-wise scaling.")
    _require(out is None or (out.dtype is out_dtype and out.shape == (len(a), b.shape[1])), "out is of another type")
    _require(bias is None or bias.dtype is torch.bfloat16, "Bias must be BFloat16")
    _require(bias is None or bias.shape == (b.shape[1],), "Bias must be of size N")
    _require(scale_result is None, "a scale of the result is for float8 outputs")


def _scaled_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    scale_a: torch.Tensor,
    scale_b: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale_result: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    product = torch.mm(a.float(), b.float()) * scale_a * scale_b
    product = (product if bias is None else product + bias.float()).to(out_dtype)
    return product if out is None else out.copy_(product)


def _check_flash(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *_: object, **__: object) -> None:
    every = (queries, keys, values)
    _require(all(one.dtype in (torch.float16, torch.bfloat16) for one in every), "expected fp16 or bf16")
    _require(all(one.dim() == 4 and one.stride(3) == 1 for one in every), "expected [B, H, T, D]")
    _require(queries.shape[1] == keys.shape[1] and queries.shape[3] <= 256, "expected as many heads, of 256 at most")


def _flash(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """The last query sees the last key."""
    scores = (queries.float() @ keys.float().mT) * (scale or queries.shape[3] ** -0.5)
    num_queries, num_keys = scores.shape[2:]
    if is_causal:
        seen = torch.ones(num_queries, num_keys, dtype=torch.bool, device="cpu").tril(num_keys - num_queries)
        scores = scores.masked_fill(~seen, -torch.inf)
    out = (scores.softmax(-1) @ values.float()).to(queries.dtype)
    seed = torch.zeros(2, dtype=torch.int64, device="cpu")
    return out, scores.logsumexp(-1), None, None, num_queries, num_keys, seed, seed[0], out.new_empty(0)


_OPERATIONS: dict[Any, tuple[Callable[..., None] | None, Callable[..., Any]]] = {
    aten.mm.dtype: (_check_mm, _mm),
    aten.mm.dtype_out: (_check_mm, _mm),
    aten._scaled_mm.default: (_check_scaled_mm, _scaled_mm),
    aten._scaled_mm.out: (_check_scaled_mm, _scaled_mm),
    aten._scaled_dot_product_flash_attention.default: (_check_flash, _flash),
}
