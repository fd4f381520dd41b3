"""Matrix products of float32 rows with a weight packed for them:  y = x W^T + b.

The weight is cut into panels of `COLUMNS` outputs, each a run of memory read front to back, by tiles of AMX where the
processor has them (`amx_gemm.py`), else by AVX-512's vectors (`vector_gemm.py`). Elsewhere oneDNN is the better choice
(`linear.py`).
"""

from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
import torch
from numba import njit, types
from numba.extending import overload

from engine.kernels import amx, amx_gemm, vector_gemm
from engine.kernels.eight_bits import quantize_outputs
from engine.kernels.tile import COLUMNS, DEPTH_STEP, MAX_ROWS
from engine.kernels.vector_gemm import tile_rows

_LINE_BYTES = 64


class Panels(NamedTuple):
    """A packed weight, or those of all layers with one more axis in front."""

    weight: np.ndarray
    """[N / COLUMNS, K, COLUMNS] float32, or [N / COLUMNS, K / 4, COLUMNS] int32: a byte of each of four k, plus 128"""
    scales: np.ndarray
    """[N], what an output of an int8 weight is multiplied by"""
    bias: np.ndarray
    """[N]"""
    tiles: bool
    """whether AMX multiplies it"""

    def layer(self, index: int) -> "Panels":
        """One of several."""
        return Panels(self.weight[index], self.scales[index], self.bias[index], self.tiles)


def runs_here(dtype: torch.dtype) -> bool:
    """Whether this processor is one that the kernel for weights of this type is made for."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("avx512f") and (dtype is torch.float32 or features.get("avx512vnni")))


def takes(num_outputs: int, depth: int) -> bool:
    """Whether a weight `[num_outputs, depth]` can be packed without an output more than it has."""
    return num_outputs % COLUMNS == 0 and depth % DEPTH_STEP == 0


def allocate(lead: tuple[int, ...], num_outputs: int, depth: int, dtype: torch.dtype) -> Panels:
    """Room for packed weights: `lead` is `()` for one, `(layers,)` for those of all layers."""
    assert takes(num_outputs, depth)
    panels = num_outputs // COLUMNS
    shape = (panels, depth, COLUMNS) if dtype is torch.float32 else (panels, depth // 4, COLUMNS)
    item = np.float32 if dtype is torch.float32 else np.int32
    scales, bias = np.ones((*lead, num_outputs), np.float32), np.zeros((*lead, num_outputs), np.float32)
    has_tiles = amx.runs_here() and depth % (amx.FLOAT_DEPTH if dtype is torch.float32 else amx.INT8_DEPTH) == 0
    return Panels(_on_lines((*lead, *shape), item), scales, bias, has_tiles)


def _on_lines(shape: tuple[int, ...], item: type[np.generic]) -> np.ndarray:
    """An array that begins a cache line, and so does every panel of it."""
    size = int(np.prod(shape)) * np.dtype(item).itemsize
    memory = np.empty(size + _LINE_BYTES, np.uint8)
    begin = -memory.ctypes.data % _LINE_BYTES
    return memory[begin : begin + size].view(item).reshape(shape)


def pack(weight: torch.Tensor, bias: torch.Tensor | None, to: Panels) -> None:
    """Fill `to` with `weight` `[N, K]`, in its own float32 or quantized to int8, whichever `to` is for."""
    num_outputs, depth = weight.shape
    if bias is not None:
        to.bias[:] = bias.float().numpy()
    if to.weight.dtype == np.float32:
        to.weight[:] = weight.view(-1, COLUMNS, depth).transpose(1, 2).numpy()
        return
    values, scales = quantize_outputs(weight, torch.int8)
    to.scales[:] = scales.numpy()
    bytes_ = (values.to(torch.int16) + 128).to(torch.uint8).view(-1, COLUMNS, depth // 4, 4).transpose(1, 2)
    to.weight.view(np.uint8).reshape(bytes_.shape)[:] = bytes_.numpy()


def multiply(x: Any, weight: Any, scales: Any, bias: Any, tiles: bool, y: Any) -> None:
    """For compiled code: `y[:T] = x W^T + b`. `y` has a whole number of tiles of rows (`tile_rows`)."""
    raise NotImplementedError


@overload(multiply)
def _multiply(x, weight, scales, bias, tiles, y):  # type: ignore[no-untyped-def]
    def float_vectors(x, weight, scales, bias, tiles, y):  # type: ignore[no-untyped-def]
        vector_gemm.gemm_float(x, weight, bias, y)

    def float_tiles(x, weight, scales, bias, tiles, y):  # type: ignore[no-untyped-def]
        if tiles:
            amx_gemm.gemm_float(x, weight, bias, y)
        else:
            vector_gemm.gemm_float(x, weight, bias, y)

    def int8_vectors(x, weight, scales, bias, tiles, y):  # type: ignore[no-untyped-def]
        vector_gemm.gemm_int8(x, weight, scales, bias, y)

    def int8_tiles(x, weight, scales, bias, tiles, y):  # type: ignore[no-untyped-def]
        if tiles and x.shape[0] > MAX_ROWS:  # a sum of integers is the same either way
            amx_gemm.gemm_int8(x, weight, scales, bias, y)
        else:
            vector_gemm.gemm_int8(x, weight, scales, bias, y)

    # Where there are no tiles, what uses them cannot even be compiled.
    if weight.dtype == types.float32:
        return float_tiles if amx.runs_here() else float_vectors
    return int8_tiles if amx.runs_here() else int8_vectors


@njit(nogil=True, cache=True)
def _call(x, weight, scales, bias, tiles, y):  # type: ignore[no-untyped-def]
    multiply(x, weight, scales, bias, tiles, y)


def gemm(x: torch.Tensor, panels: Panels) -> torch.Tensor:
    """`x` `[T, K]` float32, contiguous; the result is `[T, N]`."""
    num_rows = len(x)
    rows = tile_rows(num_rows)
    y = torch.empty(-(-num_rows // rows) * rows, panels.bias.shape[0])
    _call(x.numpy(), *panels, y.numpy())
    return y[:num_rows]
