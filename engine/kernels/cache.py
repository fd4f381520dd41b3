"""What Numba's cache of compiled kernels does not do by itself.

- It raises where it cannot be written (a full disk, one that became read-only) although the kernel is compiled: such
  kernels are compiled anew at the next start, instead of ending this one.
- It finds a kernel by what its closure holds, pickled; of another kernel that is an id made anew in each process, so
  that every start would compile it, and keep one more copy. Here such a kernel counts by its code and its own closure.
- It numbers functions from 1 in every process, and these numbers are all that tells the symbols of two functions of one
  name apart, as those of a kernel for two head sizes are. Of two that were compiled by two processes and are found by a
  third, one is then called for the other.
- Processes that start together compile the same kernels, each for itself: here the others wait for the first one, and
  load what it has compiled. And where two keep kernels of one function at a time, what one of them kept is forgotten,
  or is found as what the other one kept, for another head size: here they do so one after the other.
"""

import fcntl
import functools
import hashlib
import itertools
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

from numba.core.bytecode import FunctionIdentity
from numba.core.caching import Cache, NullCache
from numba.core.compiler_lock import global_compiler_lock
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
            with _alone(cache, _INDEX):
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


def compile_in_turns() -> None:
    """From now on, in this process; harmless when repeated."""
    compile_any = Dispatcher.compile
    if hasattr(compile_any, "__wrapped__"):
        return

    @wraps(compile_any)
    def compile_unless_another_does(kernel: Any, signature: Any) -> object:
        if isinstance(kernel._cache, NullCache):
            return compile_any(kernel, signature)
        # The compiler's lock first, which a thread that compiles has as it comes to what its kernel calls.
        with global_compiler_lock, _alone(kernel._cache, _number(kernel, signature)):
            return compile_any(kernel, signature)  # finds in the cache what another has compiled meanwhile

    setattr(Dispatcher, "compile", compile_unless_another_does)  # noqa: B010 - as above


_INDEX = 0
"""The number of a folder's indices; those of kernels are larger."""


def _number(kernel: Any, signature: object) -> int:
    """The same in every process, and hardly that of another kernel."""
    cache = kernel._cache
    name = cache._cache_file._index_name, cache._index_key(signature, kernel.targetctx.codegen())
    return 1 + int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:7])


@contextmanager
def _alone(cache: Any, number: int) -> Iterator[None]:
    """While no other process has the same number of the cache's folder; whoever dies has none. Where nothing can be
    kept, nobody waits for it."""
    file = None
    with suppress(OSError):
        cache._impl.locator.ensure_cache_path()
        numbers = _numbers(cache.cache_path)
        fcntl.lockf(numbers, fcntl.LOCK_EX, 1, number)
        file = numbers
    try:
        yield
    finally:
        if file is not None:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, number)


@functools.cache
def _numbers(folder: str) -> int:
    """A file whose bytes are locked. It is open as long as this process, for closing it would give back them all."""
    return os.open(os.path.join(folder, "kernels.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def number_functions_apart() -> None:
    """From now on, in this process: from a number that no other process begins with."""
    setattr(FunctionIdentity, "_unique_ids", itertools.count(secrets.randbits(62)))  # noqa: B010 - as above


def _held(function: Callable[..., object]) -> tuple[object, ...]:
    return tuple(cell.cell_contents for cell in function.__closure__ or ())


def _content(held: tuple[object, ...]) -> tuple[object, ...]:
    """With kernels as their code and what they hold. Numba forgets what it kept of a file that changes; of one that
    holds kernels of another file, it does not notice the other's."""
    return tuple(
        (value.py_func.__code__.co_code, _content(_held(value.py_func))) if isinstance(value, Dispatcher) else value
        for value in held
    )
