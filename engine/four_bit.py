"""Matrices whose weights are stored in four bits, as AWQ (Lin et al., 2023) and GPTQ (Frantar et al., 2022) do.

    W_nk = s_gn * (q_kn - z_gn),   g the group of input k,   q and z whole numbers of 0 to 15, eight in an int32

    AWQ    words hold eight outputs, from the low bits on the 0th, 2nd, 4th, 6th, 1st, 3rd, 5th and 7th of them
    GPTQ   words of `qweight` hold eight inputs and those of `qzeros` eight outputs, in order. In its first format zeros
           are less one. `g_idx` has each input's group: inputs of one group lie apart where they were quantized in the
           order of what they matter (`desc_act`)

Knows how a matrix is packed and what it is unpacked. Does not know files, nor how a matrix is multiplied.
"""

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

import torch

from engine.errors import ConfigError
from engine.models.spec import FourBitSpec, Packing

_WORD = 8
"""Weights in an int32."""
_AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]
"""Where in a word of AWQ each of its eight outputs lies, from the low bits on."""
_INT32, _FLOATS = ("qweight", "qzeros", "g_idx"), ("scales",)


@dataclass(frozen=True, slots=True)
class FourBitMatrix:
    """N outputs of K inputs in G groups."""

    q: torch.Tensor
    """[K, N] uint8"""
    zeros: torch.Tensor
    """[G, N] uint8"""
    scales: torch.Tensor
    """[G, N], of the checkpoint's type"""
    groups: torch.Tensor | None = None
    """[K] int64, the group of each input; None where each group is a run of K / G inputs, in order"""

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """`[N, K]`, rounded once."""
        zeros, scales, q = self.zeros.float(), self.scales.float(), self.q.float()
        if self.groups is None:
            shares = q.view(len(scales), -1, q.shape[1])
            weight = ((shares - zeros[:, None]) * scales[:, None]).flatten(0, 1)
        else:
            weight = (q - zeros[self.groups]) * scales[self.groups]
        return weight.T.to(dtype).contiguous()


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """The tensors of one matrix, as a checkpoint holds them."""

    spec: FourBitSpec
    qweight: torch.Tensor
    qzeros: torch.Tensor
    scales: torch.Tensor
    groups: torch.Tensor | None = None
    """As in `FourBitMatrix`"""

    def to(self, device: torch.device) -> "PackedMatrix":
        groups = None if self.groups is None else self.groups.to(device)
        qweight, qzeros, scales = (part.to(device) for part in (self.qweight, self.qzeros, self.scales))
        return PackedMatrix(self.spec, qweight, qzeros, scales, groups)

    def unpack(self) -> FourBitMatrix:
        """On the device where the tensors are."""
        if self.spec.packing is Packing.AWQ:
            q, zeros = (_eights(words)[..., _AWQ_PLACES].flatten(1) for words in (self.qweight, self.qzeros))
        else:
            q = _eights(self.qweight).transpose(1, 2).flatten(0, 1)
            zeros = _eights(self.qzeros).flatten(1)
        if self.spec.zeros_less_one:
            zeros = (zeros + 1) & 15
        return FourBitMatrix(q, zeros, self.scales, self.groups)


class FourBitWeights(MutableMapping[str, torch.Tensor]):
    """The weights of a model by name, of one type; a matrix of four bits is that only when it is taken out."""

    def __init__(self, tensors: dict[str, torch.Tensor], spec: FourBitSpec, dtype: torch.dtype) -> None:
        """`tensors` are a checkpoint's, of checked names, shapes and types. Raises ConfigError naming one that holds
        what cannot be."""
        self._tensors, self._dtype = tensors, dtype
        names = [name.removesuffix("qweight") for name in tensors if name.endswith(".qweight")]
        self._packed = {f"{name}weight": _take(tensors, name, spec) for name in names}

    def take_packed(self, name: str) -> PackedMatrix | None:
        """What the matrix is stored as, which is then no longer here; None where it is no matrix of four bits."""
        return self._packed.pop(name, None)

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._packed:
            return self._packed[name].unpack().dense(self._dtype)
        return self._tensors[name]

    def __setitem__(self, name: str, tensor: torch.Tensor) -> None:
        self._packed.pop(name, None)
        self._tensors[name] = tensor

    def __delitem__(self, name: str) -> None:
        if self._packed.pop(name, None) is None:
            del self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._packed or name in self._tensors

    def __iter__(self) -> Iterator[str]:
        yield from self._tensors
        yield from self._packed

    def __len__(self) -> int:
        return len(self._tensors) + len(self._packed)


def is_part(name: str) -> bool:
    """Whether the tensor of this name is a part of a matrix of four bits, which keeps its type."""
    return name.rpartition(".")[2] in (*_INT32, *_FLOATS)


def is_int32(name: str) -> bool:
    """Whether it is of whole numbers."""
    return name.rpartition(".")[2] in _INT32


def packed_shapes(name: str, shape: tuple[int, ...], spec: FourBitSpec) -> dict[str, tuple[int, ...]]:
    """The tensors in the place of the matrix `name` `[N, K]`. Raises ConfigError where it cannot be packed so."""
    (outputs, inputs), base = shape, name.removesuffix("weight")
    group = spec.group_size or inputs
    if inputs % group or inputs % _WORD or outputs % _WORD:
        raise ConfigError(
            f"tensor {base}qweight: {outputs} outputs of {inputs} inputs are not in words of {_WORD} and groups of "
            f"{group}"
        )
    groups = inputs // group
    words = (inputs, outputs // _WORD) if spec.packing is Packing.AWQ else (inputs // _WORD, outputs)
    shapes: dict[str, tuple[int, ...]] = {
        f"{base}qweight": words,
        f"{base}qzeros": (groups, outputs // _WORD),
        f"{base}scales": (groups, outputs),
    }
    return shapes | {f"{base}g_idx": (inputs,)} if spec.needs_order else shapes


def optional_shapes(name: str, shape: tuple[int, ...], spec: FourBitSpec) -> dict[str, tuple[int, ...]]:
    """What may be there, too: GPTQ writes groups that are in order, and biases of zeros for what has none."""
    if spec.packing is Packing.AWQ:
        return {}
    base = name.removesuffix("weight")
    return {f"{base}g_idx": (shape[1],), f"{base}bias": (shape[0],)}


def _take(tensors: dict[str, torch.Tensor], base: str, spec: FourBitSpec) -> PackedMatrix:
    qweight, qzeros, scales = (tensors.pop(f"{base}{part}") for part in ("qweight", "qzeros", "scales"))
    groups = tensors.pop(f"{base}g_idx", None)
    if groups is not None:
        groups, num_groups = groups.long(), len(scales)
        if int(groups.min()) < 0 or int(groups.max()) >= num_groups:
            raise ConfigError(f"tensor {base}g_idx names a group that is none of its {num_groups}")
        in_order = torch.arange(len(groups), device=groups.device) // (len(groups) // num_groups)
        groups = None if torch.equal(groups, in_order) else groups
    return PackedMatrix(spec, qweight, qzeros, scales, groups)


def _eights(words: torch.Tensor) -> torch.Tensor:
    """`[..., 8]` uint8 of 0 to 15, from the low bits of each word on."""
    pairs = words.contiguous().view(torch.uint8).view(*words.shape, _WORD // 2)
    return torch.stack((pairs & 15, pairs >> 4), -1).flatten(-2)
