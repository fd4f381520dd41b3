"""Any model whose template takes tools and says nothing of how to call them: the answer begins with JSON calls.

One object, several, or a list of them, plain or in a fenced block. It is a call only if it names a tool that was
offered.
"""

import re

from frontend.text.parsers.events import Calls
from frontend.text.parsers.feed import SPACE, Feed, Steps
from frontend.text.parsers.json_call import read_list, read_row

FENCE = "```"
LANGUAGE = re.compile(r"[a-z_]*")


def generic(feed: Feed, calls: Calls) -> Steps[None]:
    yield from feed.run(SPACE)
    if fenced := (yield from feed.literal(FENCE)):
        yield from feed.run(LANGUAGE)
        yield from feed.run(SPACE)
    is_list = (yield from feed.peek()) == "["
    read = read_list if is_list else read_row
    if (yield from read(feed, calls, only_known=True)):
        yield from feed.margin()
        if fenced and (yield from feed.literal(FENCE)):
            yield from feed.margin()
    yield from feed.told()
    yield from feed.rest()
