"""`tensor[index]` in operations: torch's own asks for a guard of the device, which a build without CUDA has not."""

from typing import Any

import torch

aten = torch.ops.aten


def get(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    """What `tensor[index]` gives."""
    part, indices = _select(tensor, index)
    if indices:
        return aten.index(part, indices)
    return part.alias() if part is tensor else part


def put(tensor: torch.Tensor, index: Any, value: Any) -> None:
    """`tensor[index] = value`."""
    part, indices = _select(tensor, index)
    if not isinstance(value, torch.Tensor):
        if not indices:
            part.fill_(value)
            return
        value = torch.full((), value, dtype=tensor.dtype, device=tensor.device)
    if indices:
        aten.index_put_(part, indices, value.to(tensor.dtype) if value.dtype != tensor.dtype else value)
    else:
        part.copy_(value)


def _select(tensor: torch.Tensor, index: Any) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """A view of what plain indices leave, and the tensors to index it with."""
    every = index if isinstance(index, tuple) else (index,)
    every = tuple(torch.tensor(one, device="cpu") if isinstance(one, list) else one for one in every)
    indices: list[torch.Tensor | None] = []
    dim = 0
    for one in every:
        if one is Ellipsis:
            place = next(place for place, item in enumerate(every) if item is Ellipsis)
            left = tensor.dim() - dim - sum(_width(item) for item in every[place + 1 :])
            dim += left
        elif one is None:
            tensor, dim = tensor.unsqueeze(dim), dim + 1
        elif isinstance(one, slice):
            tensor, dim = aten.slice(tensor, dim, one.start, one.stop, one.step or 1), dim + 1
        elif isinstance(one, torch.Tensor):
            indices += [None] * (dim - len(indices)) + [one]
            dim += _width(one)
        else:
            tensor = tensor.select(dim, int(one))
    return tensor, indices


def _width(index: Any) -> int:
    """Dimensions that it takes."""
    if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
        return index.dim()
    return 0 if index is None else 1
