"""Linear layers:  y = x W^T + b,  x and y float32, W packed once in the form that is fastest here.

    panels    float32 or int8, for our own kernels (`gemm.py`): what a decode step reads at the speed of memory
    oneDNN    any type torch computes in; without AMX, int8 rows by the hundred
    plain     small weights: a call into oneDNN costs 10 us more than it saves

int8 weights have a scale per output, their inputs one per row, taken as they come.
"""

import llvmlite.binding as llvm
import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, prange

from engine.kernels import gemm
from engine.kernels.eight_bits import quantize_outputs
from engine.kernels.exp import FAST, WORTH_SHARING
from engine.kernels.quantize import quantize_row
from engine.kernels.sharing import LOOPS

INT8 = torch.int8
_WORTH_PACKING = 1 << 18
_MANY_ROWS = 24
"""int8 rows from which on oneDNN is faster."""
_PLAIN: tuple[object, ...] = (1.0, 0, torch.float32, "none", [], "")
"""What oneDNN shall do to the result: nothing."""
_ZERO = 128
"""What 0 is as an unsigned byte."""


def linear_twin(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.linear(x.to(weight.dtype), weight, bias).float()


def linear_int8_twin(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    w_values, w_scales = quantize_outputs(weight, torch.int8)
    peaks = x.abs().amax(1, keepdim=True)
    # By the inverse, and that by one division (torch makes two roundings of 127 / peaks): then ties are the kernels'.
    x_values = (x * torch.where(peaks > 0, torch.full_like(peaks, 127) / peaks, 0)).round()
    y = (x_values.double() @ w_values.double().T * (peaks / 127) * w_scales).float()
    return y if bias is None else y + bias.float()


def has_byte_products() -> bool:
    """Whether this processor sums products of bytes in 32 bits."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("avx512vnni") or features.get("avxvnni"))


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN has products of this type on this processor."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype is torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype is torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Linear:
    """One weight `[N, K]` of the type to compute in, and its bias."""

    __slots__ = ("_bias", "_cast", "_dtype", "_is_packed", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._dtype = weight.dtype
        self._cast = weight.dtype is not torch.float32
        self._bias = bias
        self._is_packed = weight.numel() >= _WORTH_PACKING and _packs(weight.dtype)
        if self._is_packed:
            # The batch is only a hint: the packed weight serves any number of rows.
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 16)
        self._weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._cast:
            x = x.to(self._dtype)
        if self._is_packed:
            y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        else:
            y = F.linear(x, self._weight, self._bias)
        return y.float() if self._cast else y


class PanelLinear:
    """One weight in panels; outputs past its own are left out."""

    __slots__ = ("_num_outputs", "_panels")

    def __init__(self, panels: gemm.Panels, num_outputs: int) -> None:
        self._panels = panels
        self._num_outputs = num_outputs

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return gemm.gemm(x, self._panels)[:, : self._num_outputs].contiguous()


class Int8Linear:
    """One weight in int8, packed by oneDNN for many rows, and for few in panels where there are any.

    oneDNN takes rows as unsigned bytes: signed ones are computed by its reference code on every processor without AMX,
    thousands of times as slow. Where a processor has no sum of products of bytes, oneDNN would let them overflow, and
    they are multiplied in float32.
    """

    __slots__ = ("_bias", "_panels", "_scales", "_values", "_weight", "_zeros")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, panels: gemm.Panels | None) -> None:
        values, self._scales = quantize_outputs(weight, torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(values, None) if has_byte_products() else None
        self._values = values if self._weight is None else None
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = np.zeros(0, np.float32) if bias is None else bias.float().numpy()
        self._panels = panels

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._panels is not None and len(x) < _MANY_ROWS:
            return gemm.gemm(x, self._panels)[:, : len(self._scales)].contiguous()
        values, scales = torch.empty(x.shape, dtype=torch.int8), np.empty(len(x), np.float32)
        _quantize_rows(x.numpy(), values.numpy(), scales)
        if self._values is not None:
            y = F.linear(values.float(), self._values.float()).mul_(self._scales)
        else:
            shifted = values.view(torch.uint8).bitwise_xor_(_ZERO)  # adds as much
            packed = self._weight, self._scales, self._zeros, None
            y = torch.ops.onednn.qlinear_pointwise(shifted, 1.0, _ZERO, *packed, *_PLAIN)
        _scale_rows(y.numpy(), scales, self._bias)
        return y


AnyLinear = Linear | PanelLinear | Int8Linear


class LinearStack:
    """The weights of one kind, one for each layer, with their panels in one array where they have any."""

    def __init__(self, num_layers: int, num_outputs: int, depth: int, dtype: torch.dtype) -> None:
        """`dtype` is the type to compute in; `INT8` quantizes what is put in. Panels may have outputs of zeros more."""
        self._dtype = dtype
        self.panels: gemm.Panels | None = None
        if dtype in (torch.float32, INT8) and gemm.runs_here(dtype) and gemm.takes(num_outputs, depth):
            self.panels = gemm.allocate((num_layers,), num_outputs, depth, dtype)

    def put(self, index: int, weight: torch.Tensor, bias: torch.Tensor | None = None) -> AnyLinear:
        """Pack the weight of one layer."""
        panels = None
        if self.panels is not None:
            panels = self.panels.layer(index)
            missing = panels.bias.shape[0] - len(weight)
            gemm.pack(F.pad(weight.float(), (0, 0, 0, missing)) if missing else weight.float(), bias, panels)
        if self._dtype is INT8 and (panels is None or not panels.tiles):
            return Int8Linear(weight, bias, panels)
        return Linear(weight, bias) if panels is None else PanelLinear(panels, len(weight))


@njit(parallel=LOOPS, nogil=True, cache=True)
def _quantize_rows(x, values, scales):  # type: ignore[no-untyped-def]
    for row in prange(x.shape[0]):
        scales[row], _ = quantize_row(x[row], values[row])


@njit(nogil=True, fastmath=FAST)
def _scale_row(y, scale, bias):  # type: ignore[no-untyped-def]
    if bias.shape[0]:
        for i in range(y.shape[0]):
            y[i] = y[i] * scale + bias[i]
    else:
        for i in range(y.shape[0]):
            y[i] *= scale


@njit(parallel=LOOPS, nogil=True, cache=True)
def _scale_rows(y, scales, bias):  # type: ignore[no-untyped-def]
    if y.size < WORTH_SHARING:
        for row in range(y.shape[0]):
            _scale_row(y[row], scales[row], bias)
    else:
        for row in prange(y.shape[0]):
            _scale_row(y[row], scales[row], bias)
