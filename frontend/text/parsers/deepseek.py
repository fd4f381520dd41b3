"""DeepSeek V3 and R1: marked names, then arguments in a fenced block; V3.1 writes them bare and leaves the type out.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME
```json
{…}
```<｜tool▁call▁end｜>…<｜tool▁calls▁end｜>
"""

import re

from frontend.text.parsers.events import Calls, is_name
from frontend.text.parsers.feed import SPACE, Feed, Markers, Steps
from frontend.text.parsers.json_call import read_arguments

CALLS, END_CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, END_CALL = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
SHOWN = frozenset({CALLS, END_CALLS, CALL, SEPARATOR, END_CALL})
OPENING = Markers(CALLS, CALL)
FENCE, LANGUAGE = "```", "json"
NAME = re.compile(r"[^<>\s{`]*")


def deepseek(feed: Feed, calls: Calls) -> Steps[None]:
    while marker := (yield from feed.scan(OPENING)):
        yield from feed.run(SPACE)
        if (marker == CALL or (yield from feed.literal(CALL))) and (yield from _read_call(feed, calls)):
            for end in (END_CALL, END_CALLS):
                yield from feed.margin()
                yield from feed.literal(end)
            yield from feed.margin()
        else:
            yield from feed.told()


def _read_call(feed: Feed, calls: Calls) -> Steps[bool]:
    """From the name, or the type before it, on; False: it is no call, or does not end as one."""
    name = yield from feed.run(NAME)
    if not (yield from feed.literal(SEPARATOR)):
        return False
    name = (yield from feed.run(NAME)) or name
    yield from feed.run(SPACE)
    if fenced := (yield from feed.literal(FENCE)):
        yield from feed.literal(LANGUAGE)
        yield from feed.run(SPACE)
    if not is_name(name) or (yield from feed.peek()) != "{":
        return False
    feed.drop()
    yield calls.begin(name)
    is_whole = yield from read_arguments(feed, calls.arguments)
    yield calls.end()
    if is_whole and fenced:
        yield from feed.margin()
        yield from feed.literal(FENCE)
    return is_whole
