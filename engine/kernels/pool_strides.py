"""Where the rows of a pool lie that a kernel is given: all heads, or those of one rank (`engine/tp`).

    row of head h at slot p:   block * of_block + layer * of_layer + kind * of_kind + (h * P + p) * pitch

kind is 0 for keys and 1 for values; items are counted from the first one of what the kernel was given. Of a whole pool
the three follow from its shape, as they do for some of its heads not.
"""

from typing import Any

from numba.extending import overload


def pool_strides(pool: Any) -> Any:
    """For compiled code: items from one block, one layer and one kind of `pool` to the next."""
    raise NotImplementedError


@overload(pool_strides)
def _pool_strides(pool):  # type: ignore[no-untyped-def]
    item_bytes = pool.dtype.bitwidth // 8

    def of_all_heads(pool):  # type: ignore[no-untyped-def]
        of_kind = pool.shape[3] * pool.shape[4] * pool.shape[5]
        of_layer = 2 * of_kind
        return pool.shape[1] * of_layer, of_layer, of_kind

    def of_some_heads(pool):  # type: ignore[no-untyped-def]
        strides = pool.strides
        return strides[0] // item_bytes, strides[1] // item_bytes, strides[2] // item_bytes

    return of_all_heads if pool.layout == "C" else of_some_heads
