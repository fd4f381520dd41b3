"""Reasoning before the answer: `<think>…</think>`, of which the prompt may have said the first word already."""

from dataclasses import dataclass

from frontend.text.parsers.events import Reasoning
from frontend.text.parsers.feed import MOST_SPACE, SPACE, Feed, Markers, Steps


@dataclass(slots=True)
class Thoughts:
    """The markers of one family, and where the answer is."""

    open: str
    close: str
    thinking: bool
    """At first: whether the prompt has opened the reasoning."""

    def story(self, feed: Feed) -> Steps[None]:
        yield from feed.run(SPACE, MOST_SPACE)
        self.thinking = (yield from feed.literal(self.open)) or self.thinking
        if self.thinking:
            yield from feed.margin()
            yield from feed.scan(Markers(self.close), Reasoning)
            self.thinking = False
            yield from feed.margin()
        yield from feed.told()
        yield from feed.rest()
