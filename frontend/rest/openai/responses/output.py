"""The items of one answer, made of what is generated, and the events that tell of it.

One item is open at a time: what the model thinks, what it says, or a call; whatever is of another kind closes it. Does
not know what surrounds the items.
"""

from frontend.events import CallDelta, Delta, Finish
from frontend.rest.openai.answer_types import ChatTokenLogprob
from frontend.rest.openai.logprobs import Offsets, chat_logprobs
from frontend.rest.openai.responses.items import OutputItem, State
from frontend.rest.openai.responses.open_items import Events, Numbering, OpenCall, OpenMessage, OpenReasoning


class Output:
    def __init__(self, numbering: Numbering) -> None:
        self.items: list[OutputItem] = []
        """Those that are complete."""
        self._numbering = numbering
        self._open: OpenMessage | OpenReasoning | OpenCall | None = None
        self._logprobs: list[ChatTokenLogprob] = []
        """Of tokens that have said nothing yet. Those of thoughts and calls have no place in a response."""

    def take(self, delta: Delta) -> Events:
        """Reasoning comes before text, and text before calls."""
        events: Events = []
        if delta.logprobs:
            self._logprobs += chat_logprobs(delta.logprobs, Offsets()).content
        if delta.reasoning:
            events += self._think(delta.reasoning)
        if delta.text:
            events += self._say(delta.text)
        for call in delta.calls:
            events += self._call(call)
        if delta.reasoning or delta.calls:
            self._logprobs = []
        return events

    def finish(self, finish: Finish) -> Events:
        """An answer that was cut leaves its last item incomplete; one that says nothing is an empty message."""
        events: Events = []
        if self._open is None:
            self._open = OpenMessage(self._numbering, 0)
            events += self._open.begin()
        return events + self._end("incomplete" if finish is Finish.LENGTH else "completed")

    def fail(self) -> Events:
        """No more will come."""
        return self._end("incomplete")

    def _think(self, text: str) -> Events:
        events: Events = []
        if not isinstance(self._open, OpenReasoning):
            events += self._end()
            self._open = OpenReasoning(self._numbering, len(self.items))
            events += self._open.begin()
        return [*events, self._open.more(text)]

    def _say(self, text: str) -> Events:
        events: Events = []
        if not isinstance(self._open, OpenMessage):
            events += self._end()
            self._open = OpenMessage(self._numbering, len(self.items))
            events += self._open.begin()
        logprobs, self._logprobs = self._logprobs, []
        return [*events, self._open.more(text, logprobs)]

    def _call(self, call: CallDelta) -> Events:
        events: Events = []
        if call.id is not None:
            events += self._end()
            self._open = OpenCall(self._numbering, len(self.items), call.id, call.name or "")
            events += self._open.begin()
        assert isinstance(self._open, OpenCall), "arguments come without their call"
        return [*events, self._open.more(call.arguments)] if call.arguments else events

    def _end(self, state: State = "completed") -> Events:
        if self._open is None:
            return []
        item, events = self._open.end(state)
        self.items.append(item)
        self._open = None
        return events
