"""Writes checkpoints of four bits, word by word, after the definitions of AWQ's and GPTQ's formats.

Nothing of it is how the engine reads them: a word is put together from its eight numbers, one after another.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The outputs that AWQ puts into a word, from its low bits on."""
IN_ORDER = tuple(range(8))


@dataclass(frozen=True)
class Rounded:
    """A matrix of N outputs and K inputs, rounded: `(q - zeros) * scales`, by groups of inputs."""

    q: torch.Tensor
    """[K, N] int64"""
    zeros: torch.Tensor
    """[G, N] int64"""
    scales: torch.Tensor
    """[G, N] float16"""
    groups: torch.Tensor
    """[K] int64"""

    @classmethod
    def of(cls, weight: torch.Tensor, group: int, *, is_symmetric: bool = False, shuffled: bool = False) -> "Rounded":
        """To the nearest, `weight` `[N, K]`; with `shuffled`, inputs of a group lie apart."""
        inputs = weight.T.float()
        groups = torch.arange(len(inputs)) // group
        if shuffled:
            groups = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(4))]
        columns = []
        for index in range(int(groups.max()) + 1):
            share = inputs[groups == index]
            low, high = share.amin(0).clamp(max=0), share.amax(0).clamp(min=0)
            if is_symmetric:
                high = torch.maximum(high, -low)
                low = -high
            scale = ((high - low) / 15).clamp(min=1e-4).half()
            zero = torch.full_like(low, 8) if is_symmetric else (-low / scale.float()).round().clamp(0, 15)
            columns.append((scale, zero))
        scales, zeros = (torch.stack(parts) for parts in zip(*columns, strict=True))
        q = (inputs / scales.float()[groups] + zeros[groups]).round().clamp(0, 15)
        return cls(q.long(), zeros.long(), scales, groups)

    def dense(self) -> torch.Tensor:
        """`[N, K]` float32."""
        scale, zero = self.scales.float()[self.groups], self.zeros.float()[self.groups]
        return ((self.q.float() - zero) * scale).T.contiguous()


def words(columns: torch.Tensor, order: tuple[int, ...] = IN_ORDER) -> torch.Tensor:
    """`[R, C]` of 0 to 15 to `[R, C / 8]` int32: the high bit is the sign's."""
    found = torch.zeros(len(columns), columns.shape[1] // 8, dtype=torch.int64)
    for word in range(found.shape[1]):
        for place, column in enumerate(order):
            found[:, word] += columns[:, 8 * word + column] << (4 * place)
    return torch.where(found >= 2**31, found - 2**32, found).to(torch.int32)


def awq(matrix: Rounded) -> dict[str, torch.Tensor]:
    return {
        "qweight": words(matrix.q, AWQ_ORDER),
        "qzeros": words(matrix.zeros, AWQ_ORDER),
        "scales": matrix.scales,
    }


def gptq(matrix: Rounded, *, version: int = 1, with_groups: bool = True) -> dict[str, torch.Tensor]:
    zeros = (matrix.zeros - 1) % 16 if version == 1 else matrix.zeros
    parts = {"qweight": words(matrix.q.T).T.contiguous(), "qzeros": words(zeros), "scales": matrix.scales}
    return parts | {"g_idx": matrix.groups.to(torch.int32)} if with_groups else parts


AWQ_CONFIG: dict[str, Any] = {
    "quant_method": "awq",
    "version": "gemm",
    "bits": 4,
    "zero_point": True,
    "modules_to_not_convert": None,
}
GPTQ_CONFIG: dict[str, Any] = {
    "quant_method": "gptq",
    "checkpoint_format": "gptq",
    "bits": 4,
    "sym": False,
    "desc_act": False,
    "damp_percent": 0.01,
    "true_sequential": True,
}


def write_packed(source: Path, packed: Path, dense: Path, group: int, **config: Any) -> None:
    """The model of `source` twice: with `quantization_config` and its matrices in four bits, and with the same
    matrices as float32."""
    tensors, rounded = {}, {}
    is_awq = config["quant_method"] == "awq"
    is_symmetric, shuffled = bool(config.get("sym")), bool(config.get("desc_act"))
    for name, tensor in load_file(source / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = rounded[name] = tensor
            continue
        matrix = Rounded.of(tensor, group, is_symmetric=is_symmetric, shuffled=shuffled)
        version = 2 if config.get("checkpoint_format") == "gptq_v2" else 1
        parts = awq(matrix) if is_awq else gptq(matrix, version=version)
        tensors |= {f"{name.removesuffix('weight')}{part}": value for part, value in parts.items()}
        rounded[name] = matrix.dense()
    for folder, content in ((packed, tensors), (dense, rounded)):
        folder.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if file.suffix == ".json":
                shutil.copy(file, folder)
        save_file(content, folder / "model.safetensors")
    plain = json.loads((source / "config.json").read_text())
    stated = {**config, "group_size": group}
    (packed / "config.json").write_text(json.dumps({**plain, "quantization_config": stated}))
