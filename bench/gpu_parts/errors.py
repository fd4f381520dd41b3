"""How far a result is from what it should be, and whether that is right."""

import math

import torch

from bench.gpu_parts.bench import Bench
from bench.gpu_parts.report import Row

TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-5}
"""Of a row's norm: one rounding of each number, and of what is summed, in types of 8, 11 and 24 bits."""
SHORT = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def worst_row_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest ||out - expected|| / ||expected|| of a row; infinite for NaN, and for what should be 0 and is not."""
    if out.shape != expected.shape:
        return float("inf")
    width = out.shape[-1] if out.ndim else 1
    ours, theirs = out.double().reshape(-1, width), expected.double().to(out.device).reshape(-1, width)
    off, size = (ours - theirs).norm(dim=1), theirs.norm(dim=1)
    errors = torch.where(size > 0, off / size, torch.where(off == 0, 0.0, torch.inf))
    errors = torch.where(errors.isfinite(), errors, torch.inf)
    return float(errors.max()) if errors.numel() else 0.0


def share_unequal(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Of the numbers."""
    return float((out != expected.to(out.device)).double().mean())


def judge(bench: Bench, name: str, error: float, tolerance: float, unit: str = "error of the worst row") -> None:
    """Emit the row of a check."""
    is_right = error <= tolerance
    note = "right" if is_right else "wrong"
    value = error if math.isfinite(error) else "not finite"
    bench.emit(Row(name, value, unit, limit=tolerance, note=note, is_failure=not is_right))
