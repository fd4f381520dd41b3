"""What a hostile or broken peer might send: JSON beside a schema, protobuf beside a definition, bytes beside both."""

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

M = TypeVar("M", bound=Message)
Json = Mapping[str, Any]
seldom = st.sampled_from([False] * 30 + [True])
"""Whether something is wrong here: there are dozens of places in one request."""

# -- bytes -------------------------------------------------------------------------------------------------------------


@st.composite
def mutated(draw: DrawFn, originals: SearchStrategy[bytes], max_edits: int = 4) -> bytes:
    """What is left of an original after a few cuts, copies and changes; none of them is one case in five."""
    data = draw(originals)
    for _ in range(draw(st.integers(0, max_edits))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 16)))
        match draw(st.sampled_from(["change", "insert", "cut", "copy", "truncate"])):
            case "change":
                data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + 1 :]
            case "insert":
                data = data[:at] + draw(st.binary(max_size=16)) + data[at:]
            case "cut":
                data = data[:at] + data[end:]
            case "copy":
                data = data[:end] + data[at:end] * draw(st.sampled_from([1, 2, 50])) + data[end:]
            case "truncate":
                data = data[:at]
    return data


# -- JSON --------------------------------------------------------------------------------------------------------------


def _nested(depth: int) -> object:
    value: object = []
    for _ in range(depth):
        value = [value]
    return value


EDGES = [0, 1, -1, 2**31, 2**32 - 1, -(2**31), 2**63, 2**64, 10**40, -(10**400), 0.0, -0.0, 1e-320, 1e308]
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.integers()
    | st.sampled_from(EDGES)
    | st.floats()
    | st.text(max_size=8)
    | st.text("a", min_size=1, max_size=3).map(lambda text: text * 2_000)
)
anything: SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "role", "content"]) | st.text(max_size=4), inner, max_size=3)
        | st.integers(1, 500).map(_nested)
    ),
    max_leaves=6,
)


@st.composite
def beside(draw: DrawFn, schema: Json, schemas: Json) -> Any:
    """A value of this JSON schema, or one in which something is wrong here and there."""
    return draw(anything) if draw(seldom) else draw(_of(schema, schemas))


def _of(schema: Json, schemas: Json) -> SearchStrategy[Any]:
    if "$ref" in schema:
        return beside(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        return st.one_of(beside(each, schemas) for each in schema["anyOf"])
    if "enum" in schema:
        return st.sampled_from(list(schema["enum"]))
    match schema.get("type"):
        case "object" if "properties" in schema:
            return _object(schema, schemas)
        case "object":
            inner = schema.get("additionalProperties")
            values = beside(inner, schemas) if isinstance(inner, dict) else anything
            return st.dictionaries(st.integers(0, 200).map(str), values, max_size=3)
        case "array":
            least, most = schema.get("minItems", 0), min(schema.get("maxItems", 3), 3)
            return st.lists(beside(schema.get("items", {}), schemas), min_size=least, max_size=most)
        case "integer":
            least = schema.get("minimum", 0)
            return st.integers(least, schema.get("maximum", least + 40))
        case "number":
            return st.floats(schema.get("minimum", 0.125), schema.get("maximum", 100))
        case "string":
            return st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
        case "boolean":
            return st.booleans()
        case _:
            return anything


@st.composite
def _object(draw: DrawFn, schema: Json, schemas: Json) -> dict[str, Any]:
    required = list(schema.get("required", ()))
    if required and draw(seldom):
        required.remove(draw(st.sampled_from(required)))
    others = [name for name in schema["properties"] if name not in schema.get("required", ())]
    chosen = draw(st.lists(st.sampled_from(others), unique=True, max_size=4)) if others else []
    made = {name: draw(beside(schema["properties"][name], schemas)) for name in [*required, *chosen]}
    if draw(seldom):
        made[draw(st.text(max_size=6))] = draw(anything)
    return made


# -- protobuf ----------------------------------------------------------------------------------------------------------

_NUMBERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (0, 4),
}
_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def messages(draw: DrawFn, kind: type[M], depth: int = 4) -> M:
    """A message in which any fields have any values, small ones most of the time."""
    made = kind()
    _fill(draw, made, depth)
    return made


def _fill(draw: DrawFn, message: Message, depth: int) -> None:
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            pairs = draw(st.dictionaries(_scalar(key), _scalar(value), max_size=3))
            getattr(message, field.name).update(pairs)
        elif field.message_type is not None:
            _fill_inner(draw, message, field, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(_scalar(field), max_size=6)))
        else:
            setattr(message, field.name, draw(_scalar(field)))


def _fill_inner(draw: DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    if depth == 0:
        return
    if field.is_repeated:
        for _ in range(draw(st.integers(0, 3))):
            _fill(draw, getattr(message, field.name).add(), depth - 1)
    else:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _fill(draw, inner, depth - 1)


def _scalar(field: FieldDescriptor) -> SearchStrategy[Any]:
    match field.type:
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_STRING:
            return _words
        case FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=40)
        case FieldDescriptor.TYPE_FLOAT:
            return st.floats(0, 2, width=32) | st.floats(width=32)
        case FieldDescriptor.TYPE_DOUBLE:
            return st.floats(0, 2) | st.floats()
    low, high = _NUMBERS[field.type]
    return st.integers(max(low, -2), min(high, 40)) | st.integers(low, high)
