"""Puts the pretended device in the place of CUDA, in every thread, and takes it away again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.utils._device
from triton.runtime.interpreter import InterpretedFunction

from tests.gpu.pretend.gpu import MIB, Gpu
from tests.gpu.pretend.graphs import Graph, capturing
from tests.gpu.pretend.launches import launcher, within
from tests.gpu.pretend.streams import Stream
from tests.gpu.pretend.tensors import compute, empty

NUM_CORES = 132
_FACTORIES = ("arange", "arange.start", "arange.start_step", "linspace", "eye", "randperm", "randperm.generator")
"""Those that torch composes with a result that grows"""


@contextmanager
def pretended(total_mib: int = 256, taken_mib: int = 16, *, is_idle: bool = False) -> Iterator[Gpu]:
    """A GPU with so much memory, of which another process has some. If it is idle, it computes nothing."""
    gpu = Gpu(total_mib * MIB, taken_mib * MIB, is_idle=is_idle)
    torch.utils._device._device_constructors()  # is cached: it must not see what is put in place here
    library = torch.library.Library("aten", "IMPL")
    try:
        _register(gpu, library)
        with pytest.MonkeyPatch.context() as patch:
            _patch(gpu, patch)
            yield gpu
            gpu.synchronize()
    finally:
        library._destroy()
    assert not gpu.hazards, gpu.hazards


def _register(gpu: Gpu, library: torch.library.Library) -> None:
    def new(size: list[int], dtype: torch.dtype | None = None, **_: object) -> torch.Tensor:
        strides = [1] * len(size)
        for dim in range(len(size) - 2, -1, -1):
            strides[dim] = strides[dim + 1] * max(size[dim + 1], 1)
        return empty(gpu, size, strides, dtype or torch.get_default_dtype())

    def strided(size: list[int], stride: list[int], dtype: torch.dtype | None = None, **_: object) -> torch.Tensor:
        return empty(gpu, size, stride, dtype or torch.get_default_dtype())

    library.impl("empty.memory_format", new, "CUDA")
    library.impl("empty_strided", strided, "CUDA")
    for name in _FACTORIES:
        base, _, overload = name.partition(".")
        library.impl(name, _factory(gpu, getattr(getattr(torch.ops.aten, base), overload or "default")), "CUDA")


def _factory(gpu: Gpu, func: Any) -> Callable[..., torch.Tensor]:
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        with torch._C.DisableTorchFunction():
            made: torch.Tensor = compute(gpu, func, args, kwargs)
        return made

    return make


def _patch(gpu: Gpu, patch: pytest.MonkeyPatch) -> None:
    cuda = torch.cuda
    of_gpu = {"gpu": gpu}
    properties = SimpleNamespace(
        name="pretended", multi_processor_count=NUM_CORES, total_memory=gpu.total_bytes, major=9, minor=0, uuid="0"
    )

    def synchronize(device: object = None) -> None:
        gpu.wait("synchronize")
        gpu.synchronize()

    def on(stream: Stream | None) -> AbstractContextManager[None]:
        return gpu.on(stream)

    def reset_peak(device: object = None) -> None:
        gpu.peak = gpu.allocated

    def empty_cache() -> None:
        gpu.reserved = gpu.allocated

    def register(address: int, size_bytes: int, flags: int) -> int:
        gpu.pin(address, size_bytes)
        return 0

    replacements: dict[str, Any] = {
        "Stream": gpu.Stream,
        "Event": gpu.Event,
        "CUDAGraph": type("CUDAGraph", (Graph,), of_gpu),
        "graph": type("graph", (capturing,), of_gpu),
        "stream": on,
        "current_stream": lambda device=None: gpu.current_stream,
        "default_stream": lambda device=None: gpu.default_stream,
        "synchronize": synchronize,
        "device": lambda device: nullcontext(),
        "set_device": lambda device: None,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "is_available": lambda: True,
        "graph_pool_handle": object,
        "is_current_stream_capturing": lambda: gpu.is_capturing_on(gpu.current_stream),
        "_lazy_init": lambda: None,
        "manual_seed_all": lambda seed: None,
        "get_device_name": lambda device=None: properties.name,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (properties.major, properties.minor),
        "mem_get_info": lambda device=None: (gpu.free_bytes, gpu.total_bytes),
        "memory_allocated": lambda device=None: gpu.allocated,
        "max_memory_allocated": lambda device=None: gpu.peak,
        "memory_reserved": lambda device=None: gpu.reserved,
        "reset_peak_memory_stats": reset_peak,
        "empty_cache": empty_cache,
        "cudart": lambda: SimpleNamespace(cudaHostRegister=register),
        "check_error": lambda status: None,
    }
    for name, value in replacements.items():
        patch.setattr(cuda, name, value)
    for name in ("empty", "zeros", "ones"):
        patch.setattr(torch, name, _pinning(gpu, getattr(torch, name)))
    patch.setattr(torch, "tensor", _tensor(torch.tensor))
    patch.setattr(torch, "nonzero", lambda tensor: tensor.nonzero())
    patch.setattr(torch.Tensor, "is_pinned", lambda tensor, device=None: gpu.is_pinned(tensor))
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor: gpu.pinned(tensor.shape, tensor.dtype).copy_(tensor))
    patch.setattr(InterpretedFunction, "run", launcher(gpu, InterpretedFunction.run))
    patch.setattr(InterpretedFunction, "__call__", within(InterpretedFunction.__call__))


def _tensor(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`torch.tensor`, by way of the host, as it is there, too."""

    def made(data: Any, *, dtype: torch.dtype | None = None, device: Any = None, **kwargs: Any) -> torch.Tensor:
        device = torch.get_default_device() if device is None else torch.device(device)
        return make(data, dtype=dtype, device="cpu", **kwargs).to(device)

    return made


def _pinning(gpu: Gpu, make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function of torch that makes a tensor, where `pin_memory` works."""

    def made(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        tensor = make(*args, **kwargs)
        if not pin_memory:
            return tensor
        if tensor.is_cuda:
            raise RuntimeError("Only dense CPU tensors can be pinned")
        pinned = gpu.pinned(tensor.shape, tensor.dtype)
        return pinned if make.__name__ == "empty" else pinned.copy_(tensor)

    return made
