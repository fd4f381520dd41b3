"""What Numba's cache of compiled kernels does not do by itself.

- It raises where it cannot be written (a full disk, one that became read-only) although the kernel is compiled: such
  kernels are compiled anew at the next start, instead of ending this one.
- It finds a kernel by what its closure holds, pickled; of another kernel that is an id made anew in each process, so
  that every start would compile it, and keep one more copy. Here such a kernel counts by its code and its own closure.
- It numbers functions from 1 in every process, and these numbers are all that tells the symbols of two functions of one
  name apart, as those of a kernel for two head sizes are. Of two that were compiled by two processes and are found by a
  third, one is then called for the other.
"""

import hashlib
import itertools
import logging
import secrets
from collections.abc import Callable
from functools import wraps
from typing import Any

from numba.core.bytecode import FunctionIdentity
from numba.core.caching import Cache
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps

log = logging.getLogger(__name__)


def forgive_unwritable_cache() -> None:
    """From now on, in this process; harmless when repeated."""
    save = Cache.save_overload
    if hasattr(save, "__wrapped__"):
        return

    @wraps(save)
    def save_if_possible(cache: Cache, sig: object, data: object) -> None:
        try:
            save(cache, sig, data)  # type: ignore[no-untyped-call]
        except OSError as error:
            log.warning("a compiled kernel cannot be kept for the next start: %s", error)

    setattr(Cache, "save_overload", save_if_possible)  # noqa: B010 - a method, which mypy lets nobody assign


def find_kernels_of_kernels() -> None:
    """From now on, in this process; harmless when repeated."""
    index_key = Cache._index_key
    if hasattr(index_key, "__wrapped__"):
        return

    @wraps(index_key)
    def key_by_content(cache: Any, signature: object, codegen: Any) -> object:
        held = _held(cache._py_func)
        if not any(isinstance(value, Dispatcher) for value in held):
            return index_key(cache, signature, codegen)  # type: ignore[no-untyped-call]
        code, closure = cache._py_func.__code__.co_code, dumps(_content(held))
        return signature, codegen.magic_tuple(), (hashlib.sha256(code).hexdigest(), hashlib.sha256(closure).hexdigest())

    setattr(Cache, "_index_key", key_by_content)  # noqa: B010 - a method, which mypy lets nobody assign


def number_functions_apart() -> None:
    """From now on, in this process: from a number that no other process begins with."""
    setattr(FunctionIdentity, "_unique_ids", itertools.count(secrets.randbits(62)))  # noqa: B010 - as above


def _held(function: Callable[..., object]) -> tuple[object, ...]:
    return tuple(cell.cell_contents for cell in function.__closure__ or ())


def _content(held: tuple[object, ...]) -> tuple[object, ...]:
    """With kernels as their code and what they hold. All of one closure are of one file, by whose change Numba forgets
    what it kept of it."""
    return tuple(
        (value.py_func.__code__.co_code, _content(_held(value.py_func))) if isinstance(value, Dispatcher) else value
        for value in held
    )
