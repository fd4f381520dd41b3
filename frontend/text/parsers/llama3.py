"""Llama 3.1 to 3.3: the answer is `{"name": …, "parameters": {…}}`, or several with semicolons between.

Behind `<|python_tag|>`, which may stand anywhere, it is the same, or `name.call(key="value", …)` for a built-in tool.
JSON without the tag is a call only if it names a tool that was offered.
"""

import json
import re

from frontend.text.parsers.events import Calls, is_name
from frontend.text.parsers.feed import SPACE, Feed, Markers, Steps
from frontend.text.parsers.json_call import read_row, read_string

TAG = "<|python_tag|>"
TAGS = Markers(TAG)
WORD = re.compile(r"\w*")


def llama3(feed: Feed, calls: Calls) -> Steps[None]:
    yield from feed.run(SPACE)
    if (yield from feed.peek()) == "{":
        yield from read_row(feed, calls, only_known=True)
    yield from feed.told()
    while (yield from feed.scan(TAGS)):
        yield from feed.run(SPACE)
        if (yield from feed.peek()) == "{":
            yield from read_row(feed, calls)
        else:
            yield from _read_built_in(feed, calls)
        yield from feed.told()


def _read_built_in(feed: Feed, calls: Calls) -> Steps[None]:
    """`name.call(key="value", …)`, which is short: it is told when it is complete."""
    name = yield from feed.run(WORD)
    if not is_name(name) or not (yield from feed.literal(".call(")):
        return
    given: dict[str, str] = {}
    while (yield from feed.peek()) not in (")", ""):
        key = yield from feed.run(WORD)
        if not key or not (yield from feed.literal("=")) or (value := (yield from read_string(feed))) is None:
            return
        given[key] = value
        if (yield from feed.literal(",")):
            yield from feed.run(SPACE)
        elif (yield from feed.peek()) != ")":
            return
    if (yield from feed.literal(")")):
        feed.drop()
        yield calls.begin(name)
        yield calls.arguments(json.dumps(given))
        yield calls.end()
        yield from feed.margin()
