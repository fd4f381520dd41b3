"""Functions of compiled code that we write as LLVM instructions, where Numba's own code generation falls short."""

from collections.abc import Callable
from typing import Any

from numba.extending import intrinsic


def native(function: Callable[..., Any]) -> Any:
    """Numba's `intrinsic`; arguments that are constants of the caller come with their values."""
    return intrinsic(prefer_literal=True)(function)
