"""Tensors of `cuda:0` that have their numbers in the CPU's memory. An operation finds its results' shapes at once, and
computes them when its stream is waited for."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.gpu.pretend import indexing, products
from tests.gpu.pretend.gpu import Gpu
from tests.gpu.pretend.graphs import spoil
from tests.gpu.pretend.streams import Memory, Stream

aten = torch.ops.aten
DEVICE = torch.device("cuda", 0)
_CPU, _META = torch.device("cpu"), torch.device("meta")
_AT_LEAST_TWO = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
_WAITING = {
    *(aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default),
    *(aten.bincount.default, aten.repeat_interleave.Tensor, aten._unique2.default, aten.unique_dim.default),
    *(aten.unique_consecutive.default, aten.is_nonzero.default),
}
"""What the host has to wait for, since it needs the numbers"""
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_VIEWS = {aten._unsafe_view.default, aten._reshape_alias.default}
"""Beside those whose schemas say so"""
_RESIZING = {aten.resize_.default, aten.set_.source_Storage, aten.set_.source_Tensor, aten.set_.default}


class CudaTensor(torch.Tensor):
    """A tensor of the device."""

    numbers: torch.Tensor
    """Of the CPU, of the same shape and strides"""
    memory: Memory
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, numbers: torch.Tensor, memory: Memory) -> "CudaTensor":
        with torch.inference_mode(False):  # else no view of a tensor that was made without it can be made within it
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                numbers.size(),
                strides=numbers.stride(),
                storage_offset=numbers.storage_offset(),
                dtype=numbers.dtype,
                layout=numbers.layout,
                device=DEVICE,
            )
        made.numbers, made.memory = numbers, memory
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            return _dispatch(func, args, dict(kwargs or {}))

    # What follows asks torch for a guard of the device otherwise, which a build without CUDA has not.

    def item(self) -> Any:
        if self.numel() != 1:
            raise RuntimeError(f"a Tensor with {self.numel()} elements cannot be converted to Scalar")
        return aten._local_scalar_dense(self)

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __invert__(self) -> torch.Tensor:
        return self.bitwise_not()

    def nonzero(self) -> torch.Tensor:
        return aten.nonzero(self)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()

    def __getitem__(self, index: Any) -> torch.Tensor:
        return indexing.get(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        indexing.put(self, index, value)

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        with torch._C.DisableTorchFunction():
            return copy(self, source, non_blocking)

    def record_stream(self, stream: Stream) -> None:
        self.memory.recorded.add(stream)

    def is_pinned(self, device: object = None) -> bool:
        return False

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"CudaTensor({tuple(self.shape)}, {self.dtype})"


def empty(gpu: Gpu, size: Iterable[int], stride: Iterable[int], dtype: torch.dtype) -> CudaTensor:
    """New memory, in which there is garbage."""
    with torch._C.DisableTorchFunction(), torch.inference_mode(False):
        numbers = torch.empty_strided(tuple(size), tuple(stride), dtype=dtype, device="cpu")
        spoil(numbers)
        memory = Memory(gpu, numbers.untyped_storage().nbytes())
        if gpu.capture is not None and gpu.is_capturing_on(gpu.current_stream):
            gpu.capture.take(memory, numbers)
        return CudaTensor(numbers, memory)


def compute(gpu: Gpu, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that gives new tensors."""
    shapes = _shapes(func, args, kwargs)
    results = tree_map_only(torch.Tensor, lambda like: empty(gpu, like.size(), like.stride(), like.dtype), shapes)
    made = [leaf for leaf in tree_leaves(results) if isinstance(leaf, CudaTensor)]
    targets = [leaf.numbers for leaf in made]
    inputs, options = _plain(args), _on_device(_plain(kwargs), _CPU)
    call = products.checked(func, inputs, options)

    def run() -> None:
        found = [leaf for leaf in tree_leaves(call(*inputs, **options)) if isinstance(leaf, torch.Tensor)]
        for target, source in zip(targets, found, strict=True):
            target.copy_(source)

    gpu.launch(str(func), run, _memories((args, kwargs, made)))
    return results


def copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Between host and device, or on it."""
    if not target.numel():
        return target
    gpu = next(_memories((target, source))).gpu
    there, here = (tensor.numbers if isinstance(tensor, CudaTensor) else tensor for tensor in (target, source))
    is_late = all(isinstance(tensor, CudaTensor) or gpu.is_pinned(tensor) for tensor in (target, source))
    if not isinstance(target, CudaTensor) or not isinstance(source, CudaTensor):
        if not (is_late and non_blocking):
            kind = "a copy" if is_late else "a copy of memory that is not pinned"
            gpu.wait(f"{kind}{', non_blocking' * non_blocking}")
            gpu.current_stream.finish()
            there.copy_(here)
            return target
        if target is there and gpu.capture is None:
            there.fill_(torch.nan if there.dtype.is_floating_point else 0x7F)
    gpu.launch("copy_", lambda: there.copy_(here), _memories((target, source)))
    return target


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return func.decompose(*args, **kwargs)
    if func is aten.copy_.default:
        return copy(*args, **kwargs)
    if func is aten._to_copy.default and kwargs.get("device", DEVICE).type == "cpu":
        return _to_host(*args, **kwargs)
    assert func not in _RESIZING, f"{func} is not pretended"
    gpu = next(_memories((args, kwargs))).gpu
    if _is_view(func):
        (memory,) = set(_memories((args, kwargs)))
        found = func(*_plain(args), **_plain(kwargs))
        return tree_map_only(torch.Tensor, lambda numbers: CudaTensor(numbers, memory), found)
    args, kwargs = _checked(gpu, func, args, kwargs)
    if func in _WAITING or (func in _INDEXING and _has_mask(args[1])):
        return _at_once(gpu, func, args, kwargs)
    written = _written(func)
    if not written:
        return compute(gpu, func, args, kwargs)
    changed = [args[place] if place < len(args) else kwargs[name] for place, name in written]
    inputs, options = _plain(args), _on_device(_plain(kwargs), _CPU)
    run = products.checked(func, inputs, options)
    gpu.launch(str(func), lambda: run(*inputs, **options), _memories((args, kwargs)))
    count = len(func._schema.returns)
    return None if not count else changed[0] if count == 1 else tuple(changed)


def _to_host(source: CudaTensor, *, dtype: torch.dtype | None = None, non_blocking: bool = False, **_: object) -> Any:
    """Into pinned memory if it is not to be waited for, as torch does."""
    dtype = dtype or source.dtype
    if dtype != source.dtype:
        source = source.to(dtype)
    if non_blocking:
        target = source.memory.gpu.pinned(source.shape, dtype)
    else:
        target = torch.empty_strided(source.size(), source.stride(), dtype=dtype, device="cpu")
    return copy(target, source, non_blocking)


def _at_once(gpu: Gpu, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Waits, and computes."""
    gpu.wait(str(func))
    gpu.current_stream.finish()
    with torch.inference_mode():
        found = func(*_plain(args), **_plain(kwargs))
    if _written(func):
        return args[0]

    def bring(numbers: torch.Tensor) -> CudaTensor:
        made = empty(gpu, numbers.size(), numbers.stride(), numbers.dtype)
        made.numbers.copy_(numbers)
        return made

    return tree_map_only(torch.Tensor, bring, found)


def _checked(gpu: Gpu, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Refuses tensors of the host, but for single numbers, which are as they are now, and indices, which are waited
    for."""
    if func in _INDEXING and any(_is_of_host(index) for index in args[1]):
        gpu.wait("indices of the host")
        args = (args[0], [index.clone() if _is_of_host(index) else index for index in args[1]], *args[2:])
        _refuse((args[0], args[2:], kwargs))
        return args, kwargs
    _refuse((args, kwargs))
    return tree_map_only(torch.Tensor, lambda t: t.clone() if _is_of_host(t) else t, (args, kwargs))


def _refuse(values: object) -> None:
    if any(leaf.dim() for leaf in tree_leaves(values) if _is_of_host(leaf)):
        raise RuntimeError(_AT_LEAST_TWO)


def _is_of_host(value: object) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, CudaTensor)


def _has_mask(indices: list[torch.Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _memories(values: object) -> Iterator[Memory]:
    return (leaf.memory for leaf in tree_leaves(values) if isinstance(leaf, CudaTensor))


def _plain(values: Any) -> Any:
    return tree_map_only(CudaTensor, lambda tensor: tensor.numbers, values)


def _on_device(kwargs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Arguments as they are for `device`."""
    kept = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory", "non_blocking")}
    return kept | ({"device": device} if "device" in kwargs else {})


def _shapes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    def like(tensor: CudaTensor) -> torch.Tensor:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")

    args, kwargs = tree_map_only(CudaTensor, like, (args, kwargs))
    with torch.inference_mode():
        return func(*args, **_on_device(kwargs, _META))


@cache
def _is_view(func: Any) -> bool:
    aliases = [returned.alias_info for returned in func._schema.returns]
    return func in _VIEWS or any(alias is not None and not alias.is_write for alias in aliases)


@cache
def _written(func: Any) -> list[tuple[int, str]]:
    """Places and names of the arguments that are changed."""
    arguments = enumerate(func._schema.arguments)
    return [
        (999 if argument.kwarg_only else place, argument.name)
        for place, argument in arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
