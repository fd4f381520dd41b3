"""Kernels that cannot be kept on disk are compiled anew at the next start, instead of ending this one.

Numba raises where its cache cannot be written (a full disk, one that became read-only) although the kernel is compiled.
"""

import logging
from functools import wraps

from numba.core.caching import Cache

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
