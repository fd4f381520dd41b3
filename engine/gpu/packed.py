"""Tensors that are parts of one run of bytes, so that one copy between host and device moves them all.

Each begins at a multiple of 16 bytes: Triton compiles a kernel anew for a pointer that does not.
"""

from collections.abc import Sequence as Rows
from math import prod

import numpy as np
import torch

_ALIGNED_BYTES = 16

Part = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of one tensor"""


class Packed:
    """One run of bytes, and the tensors in it."""

    def __init__(self, parts: Rows[Part], device: torch.device, *, pinned: bool = False) -> None:
        sizes = [prod(shape) * dtype.itemsize for shape, dtype in parts]
        starts, first = [], 0
        for size in sizes:
            starts.append(first)
            first += -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES
        self.bytes = torch.empty(first, dtype=torch.uint8, device=device, pin_memory=pinned)
        self.tensors = [
            self.bytes[start : start + size].view(dtype).view(shape)
            for start, size, (shape, dtype) in zip(starts, sizes, parts, strict=True)
        ]


def to_device(arrays: Rows[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """Copies of `arrays` on the device, brought there by one copy that is not waited for."""
    sources = [torch.from_numpy(array) for array in arrays]
    parts = [(tuple(source.shape), source.dtype) for source in sources]
    # Pinned memory that is let go of is given to nobody else before what was copied from it has arrived.
    host = Packed(parts, torch.device("cpu"), pinned=device.type == "cuda")
    for tensor, source in zip(host.tensors, sources, strict=True):
        tensor.copy_(source)
    there = Packed(parts, device)
    there.bytes.copy_(host.bytes, non_blocking=True)
    return there.tensors
