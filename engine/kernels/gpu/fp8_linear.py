"""Linear layers in float8 e4m3 (`engine.kernels.eight_bits`).

The product is torch's `_scaled_mm` with a scale for each row and output. It takes W by columns, which `[N, K]` is
transposed; K and N are multiples of 16, and y is bfloat16. GPUs have it from compute capability 8.9 on. Where there is
no GPU the twin computes instead.

cuBLAS has no such product of some sizes: few rows of many numbers are refused on an H100 (pytorch/ao, issue 4582). Sums
without scales are there for all, and are scaled behind it.
"""

import torch

from engine.kernels.eight_bits import check_product, product_reference

MULTIPLE = 16
"""Of which K and N must be multiples."""
CAPABILITY = (8, 9)
"""Of the first GPUs that have float8"""
_REFUSED = "CUBLAS_STATUS"


def fp8_linear(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
) -> None:
    """`x` `[T, K]` e4m3 with `x_scales` `[T]` times `weight` `[N, K]` e4m3 with `scales` `[N]` to `y` `[T, N]`.

    Scales are float32; `bias` `[N]` and `y` are bfloat16 on a GPU. All contiguous.
    """
    assert x.dtype is torch.float8_e4m3fn
    check_product(x, x_scales, weight, scales, bias, y)
    num_outputs, depth = weight.shape
    assert depth % MULTIPLE == 0, f"{depth} inputs are no multiple of {MULTIPLE}"
    assert num_outputs % MULTIPLE == 0, f"{num_outputs} outputs are no multiple of {MULTIPLE}"
    if not x.is_cuda:
        y.copy_(product_reference(x, x_scales, weight, scales, bias, y.dtype))
    elif len(x):
        scaled_product(x, x_scales, weight, scales, bias, y)


def scaled_product(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
) -> None:
    """What `fp8_linear` is on a GPU."""
    try:
        scaled_within(x, x_scales, weight, scales, bias, y)
    except RuntimeError as error:  # before anything was launched: a step that is being captured goes on
        if _REFUSED not in str(error):
            raise
        scaled_behind(x, x_scales, weight, scales, bias, y)


def scaled_within(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
) -> None:
    """By the product itself. Raises RuntimeError where there is none of these sizes."""
    # Fast: sums stay in the tensor cores, with some 14 bits. What that costs is among the checks of `bench/gpu.py`.
    torch._scaled_mm(
        x,
        weight.t(),
        scale_a=x_scales[:, None],
        scale_b=scales[None],
        bias=bias,
        out_dtype=y.dtype,
        use_fast_accum=True,
        out=y,
    )


def scaled_behind(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
) -> None:
    """By two more kernels, on sums in float32."""
    one = torch.ones(1, dtype=torch.float32, device=x.device)
    sums = torch._scaled_mm(
        x, weight.t(), scale_a=one, scale_b=one, out_dtype=torch.float32, use_fast_accum=True
    )  # [T, N]
    sums.mul_(x_scales[:, None])
    if bias is None:
        torch.mul(sums, scales, out=y)
    else:
        torch.addcmul(bias.float(), sums, scales, out=y)


def why_not(device: torch.device) -> str | None:
    """What such products lack on `device`, tried on a small one; None if nothing."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < CAPABILITY:
        return f"they need a GPU of compute capability 8.9 or newer, and this one has {major}.{minor}"
    ones = torch.ones(MULTIPLE, MULTIPLE, device=device).to(torch.float8_e4m3fn)
    scales, y = torch.ones(MULTIPLE, device=device), torch.empty(ones.shape, dtype=torch.bfloat16, device=device)
    try:
        fp8_linear(ones, scales, ones, scales, None, y)
        is_right = bool((y == MULTIPLE).all())
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        return f"this torch ({torch.__version__}) cannot: {str(error).splitlines()[0] if str(error) else error!r}"
    return None if is_right else f"this torch ({torch.__version__}) computes them wrongly"
