"""The products of a layer on the device, by how its weights are kept:

    in the model's type   torch's products
    in eight bits         int8 or float8 e4m3, with a scale for each output, found once, and for each row, as it comes
    in four bits          as AWQ and GPTQ checkpoints have them, multiplied with rows of the model's type

Rows and results are of the model's type. Nothing is waited for, and in a step nothing is allocated but rows of four-bit
products whose inputs are in an order of their own (GPTQ's `desc_act`), and the sums of float8 products of sizes that
cuBLAS cannot scale (`fp8_linear.py`).
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from engine.errors import ConfigError
from engine.four_bit import FourBitMatrix
from engine.kernels.eight_bits import quantize_outputs
from engine.kernels.gpu.fp8_linear import fp8_linear
from engine.kernels.gpu.int4_linear import GROUPS, Int4Weight, int4_linear, pack
from engine.kernels.gpu.int8_linear import int8_linear
from engine.kernels.gpu.quantize import quantize_rows


class Room:
    """Where rows of eight bits lie on their way into a product; every product uses the same."""

    def __init__(self, most_rows: int, widest: int, dtype: torch.dtype | None, device: torch.device) -> None:
        """For rows of up to `widest` numbers; none where `dtype` is None."""
        size = most_rows * widest if dtype else 0
        self._values = torch.empty(size, dtype=dtype or torch.int8, device=device)
        self._scales = torch.empty(most_rows, dtype=torch.float32, device=device)

    def of(self, num_rows: int, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Values `[T, K]` and scales `[T]`."""
        return self._values[: num_rows * depth].view(num_rows, depth), self._scales[:num_rows]


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix and its bias, of the model's type."""

    weight: torch.Tensor
    """[outputs, inputs]"""
    bias: torch.Tensor | None = None

    def __call__(self, rows: torch.Tensor, out: torch.Tensor, room: Room) -> torch.Tensor:
        """Write the products of `rows` `[T, inputs]` to `out` `[T, outputs]`; returns `out`."""
        if self.bias is None:
            return torch.mm(rows, self.weight.t(), out=out)
        return torch.addmm(self.bias, rows, self.weight.t(), out=out)


@dataclass(frozen=True, slots=True)
class EightBitLinear:
    """A matrix in int8 or float8 e4m3; its bias is of the model's type."""

    weight: torch.Tensor
    """[outputs, inputs]"""
    scales: torch.Tensor
    """[outputs] float32"""
    bias: torch.Tensor | None = None

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> "EightBitLinear":
        """Quantize a weight of any type."""
        return cls(*quantize_outputs(weight, dtype), bias)

    def __call__(self, rows: torch.Tensor, out: torch.Tensor, room: Room) -> torch.Tensor:
        """As `Linear`."""
        values, scales = room.of(*rows.shape)
        quantize_rows(rows, values, scales)
        multiply = int8_linear if self.weight.dtype is torch.int8 else fp8_linear
        multiply(values, scales, self.weight, self.scales, self.bias, out)
        return out


@dataclass(frozen=True, slots=True)
class FourBitLinear:
    """A matrix in four bits; its bias is of the model's type."""

    weight: Int4Weight
    bias: torch.Tensor | None = None
    order: torch.Tensor | None = None
    """[inputs], which input of a row comes when, so that those of a group lie together; None: as they do"""

    @classmethod
    def of(cls, parts: Rows[FourBitMatrix], bias: torch.Tensor | None) -> "FourBitLinear":
        """Of parts with as many inputs, one above the other. ConfigError says what the kernel was not made for."""
        order = _order(parts)
        packed = [_packed(part, order) for part in parts]
        values, scales, zeros = (
            torch.cat(tensors, 1) for tensors in zip(*((w.values, w.scales, w.zeros) for w in packed), strict=True)
        )
        return cls(Int4Weight(values, scales, zeros), bias, order)

    def __call__(self, rows: torch.Tensor, out: torch.Tensor, room: Room) -> torch.Tensor:
        """As `Linear`."""
        int4_linear(rows if self.order is None else rows.index_select(1, self.order), self.weight, self.bias, out)
        return out


AnyLinear = Linear | EightBitLinear | FourBitLinear


def _order(parts: Rows[FourBitMatrix]) -> torch.Tensor | None:
    groups = parts[0].groups
    if groups is None:
        is_shared = all(part.groups is None for part in parts)
    else:
        is_shared = all(part.groups is not None and torch.equal(part.groups, groups) for part in parts)
    if not is_shared:
        raise ConfigError("its matrices have their inputs in different orders (desc_act), as products on a GPU cannot")
    if groups is None:
        return None
    if len(set(groups.bincount(minlength=len(parts[0].scales)).tolist())) > 1:
        raise ConfigError("its groups of inputs are of different sizes, for which there is no product on a GPU")
    return groups.argsort(stable=True)


def _packed(matrix: FourBitMatrix, order: torch.Tensor | None) -> Int4Weight:
    """A group of inputs that is too large for the kernel is several with the same scale and zero."""
    group = len(matrix.q) // len(matrix.scales)
    share = next((share for share in GROUPS if group % share == 0), None)
    if share is None:
        raise ConfigError(f"a group of {group} inputs is no multiple of {GROUPS[-1]}, as products on a GPU need it")
    scales, zeros = (part.repeat_interleave(group // share, 0) for part in (matrix.scales, matrix.zeros))
    return pack(matrix.q if order is None else matrix.q[order], scales, zeros)
