"""Mistral: `[TOOL_CALLS]` and a list of `{"name": …, "arguments": {…}}`; newer ones write `[TOOL_CALLS]name[ARGS]{…}`.

The newer form repeats the marker for each call, may leave `[ARGS]` out, and may put `[CALL_ID]id` before it.
"""

import re

from frontend.text.parsers.events import Calls, is_name
from frontend.text.parsers.feed import SPACE, Feed, Markers, Steps
from frontend.text.parsers.json_call import read_arguments, read_list

OPEN, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
OPENING = Markers(OPEN)
NAME = re.compile(r"[\w.:/-]*")
ID = re.compile(r"[A-Za-z0-9]*")
MAX_ID_CHARS = 64


def mistral(feed: Feed, calls: Calls) -> Steps[None]:
    while (yield from feed.scan(OPENING)):
        yield from feed.run(SPACE)
        is_list = (yield from feed.peek()) == "["
        if (yield from read_list(feed, calls) if is_list else _read_named(feed, calls)):
            yield from feed.margin()
        else:
            yield from feed.told()


def _read_named(feed: Feed, calls: Calls) -> Steps[bool]:
    name = yield from feed.run(NAME)
    yield from feed.run(SPACE)
    call_id = (yield from feed.run(ID, MAX_ID_CHARS)) if (yield from feed.literal(CALL_ID)) else ""
    yield from feed.literal(ARGS)
    yield from feed.run(SPACE)
    if not is_name(name) or (yield from feed.peek()) != "{":
        return False
    feed.drop()
    yield calls.begin(name, call_id)
    is_whole = yield from read_arguments(feed, calls.arguments)
    yield calls.end()
    return is_whole
