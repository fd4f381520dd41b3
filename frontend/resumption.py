"""Answers that outlive the call they were asked by, so that a client whose connection broke goes on where it stopped.

An answer is made by a task of its own, which keeps what comes; calls read along, from any token on. Once nobody has
read for the grace that its request asked for, it is aborted if it was not complete, and forgotten; at once where it had
not started, as nobody knows what to resume, or where its caller says so.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from engine.errors import InvalidRequest, TandemError, UnknownRequest
from frontend.api import Inference
from frontend.callers import Caller
from frontend.events import Delta, Event, Started
from frontend.request import GenerateRequest


@dataclass(slots=True, eq=False)
class _Kept:
    """One answer: its events so far, who reads along, and for how long it is kept after that."""

    caller: Caller
    grace_s: float
    events: list[Event] = field(default_factory=list)
    error: TandemError | None = None
    complete: bool = False
    num_readers: int = 0
    task: "asyncio.Task[None] | None" = None
    expiry: asyncio.TimerHandle | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Replaced when it is set."""

    def tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class Resumption:
    """Makes answers that can be resumed, and resumes them."""

    def __init__(self, inference: Inference, max_grace_s: float) -> None:
        self._inference = inference
        self._max_grace_s = max_grace_s
        self._kept: dict[str, _Kept] = {}

    def generate(self, request: GenerateRequest, grace_s: float) -> AsyncGenerator[Event, None]:
        """As `Inference.generate`, but closing the generator once it has started only begins the grace. Raises
        InvalidRequest if that is longer than the server allows."""
        if grace_s > self._max_grace_s:
            message = f"resume_grace_ms is at most {self._max_grace_s * 1e3:g} here, not {grace_s * 1e3:g}"
            raise InvalidRequest(message, field="resume_grace_ms")
        kept = _Kept(request.caller, grace_s)
        kept.task = asyncio.create_task(self._make(kept, request))
        return self._read(kept, 0)

    def resume(self, caller: Caller, request_id: str, next_index: int) -> AsyncGenerator[Event, None]:
        """What follows the first `next_index` tokens of an answer, as it comes.

        Raises UnknownRequest for an answer that is not kept, or somebody else's; InvalidRequest for a token at which no
        delta begins.
        """
        kept = self._find(caller, request_id)
        return self._read(kept, _position(kept, next_index))

    def cancel(self, caller: Caller, request_id: str) -> None:
        """End an answer and forget it; whoever reads along hears that it is not there. Raises UnknownRequest as
        `resume`."""
        kept = self._find(caller, request_id)
        if not kept.complete:
            kept.error = UnknownRequest(f"the answer of {request_id[:80]!r} was cancelled", field="request_id")
        self._expire(kept)

    def _find(self, caller: Caller, request_id: str) -> _Kept:
        kept = self._kept.get(request_id)
        if kept is None or kept.caller.name != caller.name:  # what its key allows may have changed meanwhile
            raise UnknownRequest(f"no answer of {request_id[:80]!r} is kept here", field="request_id")
        return kept

    async def _make(self, kept: _Kept, request: GenerateRequest) -> None:
        request_id = ""
        try:
            async with aclosing(self._inference.generate(request)) as events:
                async for event in events:
                    kept.events.append(event)
                    if isinstance(event, Started):
                        request_id = event.request_id
                        self._kept[request_id] = kept
                    kept.tell()
        except TandemError as error:
            kept.error = error
        finally:
            kept.complete = True
            kept.tell()

    async def _read(self, kept: _Kept, position: int) -> AsyncGenerator[Event, None]:
        kept.num_readers += 1
        if kept.expiry is not None:
            kept.expiry.cancel()
        try:
            while True:
                for event in kept.events[position:]:
                    position += 1
                    yield event
                if position == len(kept.events):
                    if kept.complete:
                        break
                    await kept.news.wait()
            if kept.error is not None:
                raise kept.error
            assert kept.task is not None
            await asyncio.shield(kept.task)  # raises what is our own fault
        finally:
            kept.num_readers -= 1
            if not kept.events:
                self._expire(kept)
            elif not kept.num_readers:
                kept.expiry = asyncio.get_running_loop().call_later(kept.grace_s, self._expire, kept)

    def _expire(self, kept: _Kept) -> None:
        assert kept.task is not None
        kept.task.cancel()
        if kept.events and isinstance(kept.events[0], Started):
            self._kept.pop(kept.events[0].request_id, None)


def _position(kept: _Kept, next_index: int) -> int:
    """Of the first event that is missing; before the first token it is whatever follows Started."""
    if next_index == 0:
        return 1
    deltas = [(position, event) for position, event in enumerate(kept.events) if isinstance(event, Delta)]
    for position, delta in deltas:
        if delta.first_index == next_index:
            return position
    end = deltas[-1][1].first_index + len(deltas[-1][1].token_ids) if deltas else 0
    if next_index == end:
        return deltas[-1][0] + 1 if deltas else 1
    message = f"next_index is {next_index}; {end} tokens were made, and no delta began at that one"
    raise InvalidRequest(message, field="next_index")
