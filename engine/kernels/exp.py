"""exp of a float32 in a form that LLVM turns into vector code, which it does not do with a call into libm.

    exp(x) = 2^k * 2^f,   k = round(x / ln 2),   f = x / ln 2 - k in [-1/2, 1/2]

2^f is its Taylor polynomial of degree 7 (relative error 1e-7), 2^k is written into the exponent bits. Results below
2^-126 become 2^-126, those above 2^126 become 2^126.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit

from engine.kernels.vectors import call, splat

FAST = {"reassoc", "contract", "arcp", "nsz"}
"""What LLVM may do to float arithmetic in the kernels; infinities keep their meaning."""

WORTH_SHARING = 1 << 17
"""Numbers below which a simple kernel stays on one core: sharing them takes longer than computing them."""

_LOG2_E = np.float32(1.4426950408889634)
_C1 = np.float32(0.6931471805599453)
_C2 = np.float32(0.2402265069591007)
_C3 = np.float32(0.05550410866482158)
_C4 = np.float32(0.009618129107628477)
_C5 = np.float32(0.0013333558146428443)
_C6 = np.float32(0.0001540353039338161)
_C7 = np.float32(0.00001525273380405984)


@njit(nogil=True, fastmath=FAST)
def exp(x):  # type: ignore[no-untyped-def]
    scaled = min(max(x * _LOG2_E, np.float32(-126)), np.float32(126))
    whole = np.rint(scaled)
    f = scaled - whole
    power = _C7 * f + _C6
    power = power * f + _C5
    power = power * f + _C4
    power = power * f + _C3
    power = power * f + _C2
    power = power * f + _C1
    power = power * f + np.float32(1)
    return power * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


def emit_exp(builder: Any, x: Any) -> Any:
    """The same for a vector, in code that is being generated."""
    kind = x.type
    integers = ir.VectorType(ir.IntType(32), kind.count)
    scaled = builder.fmul(x, splat(kind, float(_LOG2_E)))
    scaled = call(builder, "minnum", kind, call(builder, "maxnum", kind, scaled, splat(kind, -126)), splat(kind, 126))
    whole = call(builder, "rint", kind, scaled)
    f = builder.fsub(scaled, whole)
    power = splat(kind, float(_C7))
    for coefficient in (_C6, _C5, _C4, _C3, _C2, _C1, 1):
        power = call(builder, "fma", kind, power, f, splat(kind, float(coefficient)))
    exponent = builder.add(builder.fptosi(whole, integers), splat(integers, 127))
    return builder.fmul(power, builder.bitcast(builder.shl(exponent, splat(integers, 23)), kind))
