"""From the bytes of a JSON body to the fields of a Struct, for any dialect. Nothing in a body is silently ignored, but
what nobody knows, if whoever runs the server wants it so.

Every complaint names its parameter as a path (`messages[0].content`): unknown, unsupported, or of the wrong type.
null is the same as leaving a parameter out. Does not know what parameters mean.
"""

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

import msgspec

from engine.errors import InvalidRequest

Body = dict[str, object]
Off = Mapping[str, tuple[object, ...]]
"""Parameters that this server knows and does not support, with the values that ask for nothing. null always does."""
_HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB][\da-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][\da-fA-F]{2})\\u[dD][c-fC-F]"
)
"""What is left where a client cuts a text in the middle of an emoji. msgspec says that it is truncated."""
T = TypeVar("T", bound=msgspec.Struct)


class UnsupportedParameter(InvalidRequest):
    """A parameter of the dialect's that this server does not have."""

    reason = "UNSUPPORTED_PARAMETER"


class UnknownParameter(InvalidRequest):
    """A parameter that nobody has."""

    reason = "UNKNOWN_PARAMETER"


def decode_body(body: bytes) -> Body:
    """The JSON object that `body` is. Raises InvalidRequest."""
    try:
        decoded = msgspec.json.decode(body)
    except RecursionError:
        raise InvalidRequest("the request body is nested too deeply") from None
    except ValueError as error:  # msgspec's own, and bytes that are not UTF-8
        why = "a text holds half a surrogate pair" if _HALF_PAIR.search(body) else error
        raise InvalidRequest(f"the request body is not valid JSON: {why}") from error
    if not isinstance(decoded, dict):
        raise InvalidRequest(f"the request body must be a JSON object, not {type(decoded).__name__}")
    return decoded


def supported(given: Body, kind: type[msgspec.Struct], off: Off, path: str = "", *, lenient: bool = False) -> Body:
    """`given` without nulls and without what asks for nothing. Raises for the rest that `kind` does not have; what
    nobody has is left out, too, where one is `lenient`."""
    kept: Body = {}
    for name, value in given.items():
        if name in kind.__struct_fields__:
            if value is not None:
                kept[name] = number(value) if type(value) is float else value
        elif name not in off:
            if lenient:
                continue
            raise UnknownParameter(f"unknown parameter: {path}{name}", field=path + name)
        elif value is not None and not any(type(value) is type(none) and value == none for none in off[name]):
            raise UnsupportedParameter(f"{path}{name} is not supported by this server", field=path + name)
    return kept


def one_of(given: Body, names: Collection[str]) -> str:
    """Which of `names` is given, where each says what the body is. Raises InvalidRequest for none and for several."""
    found = [name for name, value in given.items() if name in names and value is not None]
    if len(found) != 1:
        message = f"give one of {', '.join(names)}, not {'several' if found else 'none'}"
        raise InvalidRequest(message, field=found[1] if found else None)
    return found[0]


def number(given: float) -> float:
    """JSON has one kind of number: 2.0 is a whole one. What is beyond 2**53 has lost its last digits."""
    return int(given) if given.is_integer() and abs(given) <= 2**53 else given


def convert(fields: Body, kind: type[T], *, strict: bool = True) -> T:
    """Raises InvalidRequest for what is missing or of the wrong type; numbers may be texts unless one is `strict`."""
    try:
        return msgspec.convert(fields, kind, strict=strict)
    except RecursionError:
        raise InvalidRequest("the request body is nested too deeply") from None
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`").partition("[...]")[0].lstrip(".")
        if missing := re.match(r"Object missing required field `(\w+)`", what):
            path = f"{path}.{missing[1]}".lstrip(".")
            raise InvalidRequest(f"missing required parameter: {path}", field=path) from error
        raise InvalidRequest(f"{path}: {what[:1].lower()}{what[1:].replace('`', '')}", field=path) from error
