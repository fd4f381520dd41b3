"""Products of eight bits, int8 or float8 e4m3, on any device: how a weight comes to them, and what they are.

    y_tn = s_t * w_n * (sum_k X_tk W_nk) + b_n

with a scale for each row of X and each output of W, and the largest magnitude of either at the end of the format.
"""

import torch

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
_LEAST_SCALE = 1e-30
_OUTPUTS_AT_ONCE = 4096
"""What a weight being quantized takes beside itself is that many rows of float32."""


def quantize_outputs(weight: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """`(values [N, K], scales [N])` of a weight of any float type: weight ~ scale * value."""
    values = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    scales = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    for first in range(0, len(weight), _OUTPUTS_AT_ONCE):
        outputs = slice(first, first + _OUTPUTS_AT_ONCE)
        some = weight[outputs].float()
        scales[outputs] = (some.abs().amax(1) / LARGEST[dtype]).clamp(min=_LEAST_SCALE)
        some = some / scales[outputs, None]
        values[outputs] = some.round_() if dtype is torch.int8 else some
    return values, scales


def product_reference(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`x` `[T, K]` with `x_scales` `[T]` times `weight` `[N, K]` with `scales` `[N]`: `[T, N]` of `dtype`."""
    y = (x.double() @ weight.double().T) * x_scales.double()[:, None] * scales.double()
    return (y if bias is None else y + bias.double()).to(dtype)


def check_product(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
) -> None:
    """Assert that shapes fit, and that all is contiguous."""
    (num_rows, depth), num_outputs = x.shape, len(weight)
    assert x.dtype is weight.dtype
    assert weight.shape == (num_outputs, depth)
    assert x_scales.shape == (num_rows,)
    assert scales.shape == (num_outputs,)
    assert y.shape == (num_rows, num_outputs)
    assert bias is None or bias.shape == (num_outputs,)
    assert all(tensor.is_contiguous() for tensor in (x, x_scales, weight, scales, y))
