"""Hermes, Qwen2.5 and Qwen3: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number of them in the text."""

from frontend.text.parsers.events import Calls
from frontend.text.parsers.feed import SPACE, Feed, Markers, Steps
from frontend.text.parsers.json_call import read_call

OPEN, CLOSE = "<tool_call>", "</tool_call>"
OPENING = Markers(OPEN)


def hermes(feed: Feed, calls: Calls) -> Steps[None]:
    while (yield from feed.scan(OPENING)):
        yield from feed.run(SPACE)
        if (yield from read_call(feed, calls)):
            yield from feed.margin()
            yield from feed.literal(CLOSE)  # some models leave it out
            yield from feed.margin()
        else:
            yield from feed.told()
