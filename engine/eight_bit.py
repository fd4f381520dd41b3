"""Matrices whose weights are stored in eight bits, as compressed-tensors does:

    W_nk = s_n * v_nk,   v int8 or float8 e4m3,   s in a tensor beside the weight, one for each output or one for all

They are unpacked as they are loaded. Where matrices are quantized again, as with `--quantization int8`, the same
numbers are found, if the largest of an output is the largest there is, and nothing narrower lies between.
"""

import torch

from engine.models.spec import EightBitSpec

SCALE = "_scale"
"""What the name of a weight's scales has more."""


def scaled_shapes(name: str, shape: tuple[int, ...], spec: EightBitSpec) -> dict[str, tuple[int, ...]]:
    """The tensors of the matrix `name` `[N, K]`."""
    return {name: shape, f"{name}{SCALE}": (shape[0], 1) if spec.per_output else (1,)}


def unscale(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Make the matrices that have scales what they stand for, in `dtype`, rounded once; drop the scales."""
    for name in [name for name in weights if name.endswith(f".weight{SCALE}")]:
        scales, matrix = weights.pop(name).float(), name.removesuffix(SCALE)
        weights[matrix] = weights[matrix].float().mul_(scales).to(dtype)
