"""Qwen3-Coder: `<tool_call><function=NAME><parameter=KEY>\\nvalue\\n</parameter>…</function></tool_call>`.

Values are written bare. Those of parameters that the schema calls something else than a string become JSON, if they
make sense as such; all others are strings, and are handed on as they come.
"""

import ast
import json
import re
from collections.abc import Mapping

from frontend.text.parsers.events import Calls, is_name
from frontend.text.parsers.feed import SPACE, Feed, Markers, Steps
from frontend.text.parsers.json_value import is_json

OPEN, CLOSE, FUNCTION = "<tool_call>", "</tool_call>", "<function="
PARAMETER, END_FUNCTION = "<parameter=", "</function>"
OPENING = Markers(OPEN, FUNCTION)
END_PARAMETER = Markers("</parameter>", space=r"\n?")
NAME = re.compile(r"[^<>\n]*")
MAX_LITERAL_CHARS = 10_000
"""Longer values are not read as Python's."""

Schemas = Mapping[str, Mapping[str, object]]
"""By tool, the schemas of its parameters by their names."""


def qwen3_coder(feed: Feed, calls: Calls, schemas: Schemas) -> Steps[None]:
    while marker := (yield from feed.scan(OPENING)):
        if marker == OPEN:
            yield from feed.run(SPACE)
        is_function = marker == FUNCTION or (yield from feed.literal(FUNCTION))
        if is_function and (yield from _read_function(feed, calls, schemas)):
            yield from feed.margin()
            yield from feed.literal(CLOSE)
            yield from feed.margin()
        else:
            yield from feed.told()


def _read_function(feed: Feed, calls: Calls, schemas: Schemas) -> Steps[bool]:
    """From the name on; False as in `read_call`."""
    name = yield from feed.run(NAME)
    if not is_name(name) or not (yield from feed.literal(">")):
        return False
    feed.drop()
    yield calls.begin(name)
    yield calls.arguments("{")
    is_whole = yield from _read_parameters(feed, calls, schemas.get(name, {}))
    if is_whole:
        feed.drop()
        yield calls.arguments("}")
    yield calls.end()
    return is_whole


def _read_parameters(feed: Feed, calls: Calls, schemas: Mapping[str, object]) -> Steps[bool]:
    separator = ""
    while True:
        yield from feed.run(SPACE)
        if not (yield from feed.literal(PARAMETER)):
            return (yield from feed.literal(END_FUNCTION))
        key = yield from feed.run(NAME)
        if not (yield from feed.literal(">")):
            return False
        yield from feed.literal("\n")
        feed.drop()
        yield calls.arguments(f"{separator}{_quoted(key)}: ")
        separator = ", "
        if not (yield from _read_value(feed, calls, _types(schemas.get(key)))):
            return False


def _read_value(feed: Feed, calls: Calls, types: frozenset[str]) -> Steps[bool]:
    """Up to the end of the parameter, which a cut answer does not have."""
    if not types or "string" in types:
        yield calls.arguments('"')
        found = yield from feed.scan(END_PARAMETER, lambda text: calls.arguments(_quoted(text)[1:-1]))
        if found:
            yield calls.arguments('"')
    else:
        parts: list[str] = []
        found = yield from feed.scan(END_PARAMETER, parts.append)
        if parts or found:
            yield calls.arguments(_as_json("".join(parts), types))
    feed.drop()
    return bool(found)


def _types(schema: object) -> frozenset[str]:
    """What a value may be; empty: anything."""
    match schema:
        case {"type": str(name)}:
            return frozenset({name})
        case {"type": [*names]}:
            return frozenset(name for name in names if isinstance(name, str))
        case {"anyOf": [*options]} | {"oneOf": [*options]}:  # no deeper: who wrote them may be hostile
            names = [option.get("type") if isinstance(option, dict) else None for option in options]
            known = frozenset(name for name in names if isinstance(name, str))
            return known if None not in names else frozenset()
        case _:
            return frozenset()


def _as_json(text: str, types: frozenset[str]) -> str:
    bare = text.strip()
    if bare in ("True", "False", "None"):  # templates show the model Python's spelling of earlier calls
        return {"True": "true", "False": "false", "None": "null"}[bare]
    if is_json(bare):
        return bare
    if types & {"array", "object"} and len(bare) <= MAX_LITERAL_CHARS:
        try:
            return json.dumps(ast.literal_eval(bare), allow_nan=False)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            pass
    return _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
