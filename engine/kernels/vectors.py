"""What the kernels that we write as LLVM instructions have in common: vectors, addresses and loops."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

_INT, _INT64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()


def call(builder: Any, name: str, vector: Any, *args: Any) -> Any:
    """An LLVM intrinsic on vectors of one type."""
    signature = ir.FunctionType(vector, [vector] * len(args))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v{vector.count}f32")
    return builder.call(function, args)


def reduce(builder: Any, operation: str, vector: Any) -> Any:
    """All lanes into one number."""
    name = f"llvm.vector.reduce.{operation}.v{vector.type.count}f32"
    if operation == "fadd":
        signature = ir.FunctionType(_FLOAT, [_FLOAT, vector.type])
        function = cgutils.get_or_insert_function(builder.module, signature, name)
        return builder.call(function, [ir.Constant(_FLOAT, -0.0), vector], fastmath=("reassoc", "nsz"))
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOAT, [vector.type]), name)
    return builder.call(function, [vector], fastmath=("nnan",))


def sums_of_each(builder: Any, vectors: Sequence[Any]) -> Any:
    """As many vectors as they have lanes into one, of the sum of each: a third of what `reduce` takes for them all.

    Two vectors are added half to half into one, until one is left; the order of sums is that of `reduce`.
    """
    width = lanes = vectors[0].type.count
    while len(vectors) > 1:
        half = width // 2
        firsts = [start + lane for start in range(0, 2 * lanes, width) for lane in range(half)]
        lower, upper = (ir.Constant(ir.VectorType(_INT, lanes), [at + by for at in firsts]) for by in (0, half))
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.fadd(*(builder.shuffle_vector(*pair, mask) for mask in (lower, upper))) for pair in pairs]
        width = half
    return vectors[0]


def broadcast(builder: Any, number: Any, lanes: int) -> Any:
    """One number in all lanes, of its own type."""
    vector = ir.VectorType(number.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(_INT, 0))
    mask = ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)


def constant(value: int) -> ir.Constant:
    """A constant index."""
    return ir.Constant(_INT64, value)


def pointer_to(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """The address of a contiguous array's item by its flat index."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def splat(vector: Any, value: float) -> ir.Constant:
    """A constant in all lanes of a vector of this type."""
    number = int(value) if isinstance(vector.element, ir.IntType) else float(value)
    return ir.Constant(vector, [number] * vector.count)


def load(builder: Any, pointer: Any, offset: int, vector: Any) -> Any:
    """The vector of this type `offset` 32-bit items behind `pointer`."""
    at = builder.bitcast(builder.gep(pointer, [constant(offset)]), vector.as_pointer())
    return builder.load(at, align=4)


def store(builder: Any, value: Any, pointer: Any, offset: int) -> None:
    at = builder.bitcast(builder.gep(pointer, [constant(offset)]), value.type.as_pointer())
    builder.store(value, at, align=4)


class Loop:
    """A loop over steps `0 <= step < count`, count > 0, that carries values from one to the next."""

    def __init__(self, builder: Any, count: Any, initial: Sequence[Any] = ()) -> None:
        self._builder = builder
        before = builder.block
        self._head, self._after = builder.append_basic_block("steps"), builder.append_basic_block("after")
        builder.branch(self._head)
        builder.position_at_end(self._head)
        self.step = builder.phi(_INT64)
        self.step.add_incoming(constant(0), before)
        self.carried = [builder.phi(value.type) for value in initial]
        for phi, value in zip(self.carried, initial, strict=True):
            phi.add_incoming(value, before)
        self.following = builder.add(self.step, constant(1))
        self.is_last = builder.icmp_signed(">=", self.following, count)

    def close(self, carried: Sequence[Any] = ()) -> None:
        """After this, `carried` are the values that the last step left."""
        builder = self._builder
        self.step.add_incoming(self.following, builder.block)
        for phi, value in zip(self.carried, carried, strict=True):
            phi.add_incoming(value, builder.block)
        builder.cbranch(self.is_last, self._after, self._head)
        builder.position_at_end(self._after)


def past_cache(builder: Any, stored: Any) -> None:
    """Let a store of a whole, aligned line go to memory at once: what it overwrites need not be read for it."""
    stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_INT, 1)]))
