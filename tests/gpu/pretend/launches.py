"""Kernels of Triton on the pretended device: what a launch refuses, what it compiles anew for, and the launch itself,
in Triton's interpreter."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton.language as tl

from engine.kernels.gpu import early
from tests.gpu.pretend.gpu import Gpu, caller
from tests.gpu.pretend.tensors import CudaTensor

_ALIGNED = 16


def launcher(gpu: Gpu, interpret: Callable[..., None]) -> Callable[..., None]:
    """`InterpretedFunction.run`, later, where its stream is waited for."""

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        names = inspect.signature(kernel.fn).parameters
        given = dict(zip(names, args, strict=False)) | kwargs
        for index, (name, value) in enumerate(given.items()):
            if isinstance(value, torch.Tensor) and not isinstance(value, CudaTensor) and not gpu.is_pinned(value):
                raise ValueError(f"Pointer argument (at {index}) cannot be accessed from Triton (cpu tensor?): {name}")
        key = (kernel.fn, tuple((name, _specialized(kernel, names, name, given[name])) for name in sorted(given)))
        if key not in gpu.compiled:
            gpu.compiled[key] = f"{kernel.fn.__name__} at {caller()}"
            if gpu.capture is not None and gpu.is_capturing_on(gpu.current_stream):
                raise RuntimeError(f"{gpu.compiled.pop(key)} is compiled while a graph is captured")
        tensors = [value for value in given.values() if isinstance(value, CudaTensor)]
        plain = [value.numbers if isinstance(value, CudaTensor) else value for value in args]
        named = {name: value.numbers if isinstance(value, CudaTensor) else value for name, value in kwargs.items()}
        gpu.launch(
            kernel.fn.__name__,
            lambda: interpret(kernel, *plain, grid=grid, warmup=warmup, **named),
            [tensor.memory for tensor in tensors],
        )

    return run


def within(interpret: Callable[..., Any]) -> Callable[..., Any]:
    """`InterpretedFunction.__call__`, of one in a kernel. A kernel never comes before the one ahead of it has ended
    here, and so what would wait for that, or fetch something meanwhile, has nothing to do."""

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        return None if function.fn.__module__ == early.__name__ else interpret(function, *args, **kwargs)

    return call


def _specialized(kernel: Any, names: Any, name: str, value: object) -> object:
    """What of an argument a compiled kernel depends on."""
    if name not in names or names[name].annotation is tl.constexpr or value is None:
        return value  # an option of the launch, or a constant
    if isinstance(value, torch.Tensor):
        return value.dtype, value.data_ptr() % _ALIGNED == 0
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float):
        return "float"
    if not isinstance(value, int):
        raise TypeError(f"{kernel.fn.__name__} does not take {name} of {type(value)}")
    size = 32 if -(2**31) <= value < 2**31 else 64
    if name in (kernel.kwargs.get("do_not_specialize") or ()):
        return size
    return size, value == 1, value % _ALIGNED == 0
