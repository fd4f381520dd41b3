"""The legs of one attempt at a request, and what workers say of them, in the order that the answer has.

Tokens come over streams that know nothing of each other, token 1 from prefill and the rest from decode; they are
handed on by their numbers. A worker that fails ends the attempt.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from engine.errors import TandemError
from frontend.job import Job
from frontend.link import Leg, LegEvent, Link, Lost, Row, Start
from protos import worker_pb2 as pb


class Interrupted(TandemError):
    """The attempt's workers failed it; another attempt may do better. Never reaches a client as such."""

    def __init__(self, message: str, *, died: Start | None = None, by_transfer: bool = False) -> None:
        super().__init__(message)
        self.by_transfer = by_transfer
        """Whether KV did not get from one worker to the other."""
        self.died = died
        """The worker that went without a word while it had the request."""


@dataclass(slots=True)
class Legs:
    """The legs of one attempt and what they say."""

    job: Job
    _inbox: "_Inbox" = field(default_factory=lambda: _Inbox())
    _legs: list[Leg] = field(default_factory=list)
    _early: dict[int, Row] = field(default_factory=dict)
    """Tokens that wait for one before them."""
    _failure: Interrupted | None = None

    def add(self, link: Link, admit: pb.Admit) -> Leg:
        leg = link.admit(admit, self._inbox)
        self._legs.append(leg)
        return leg

    def abort(self) -> None:
        for leg in self._legs:
            leg.abort()

    async def answer(self, leg: Leg) -> pb.Granted | pb.Refused:
        """Wait for the worker's answer to this leg. Raises Interrupted when a worker fails meanwhile."""
        while self._failure is None:
            if (item := self._inbox.pop()) is None:
                await self._inbox.wait()
                continue
            sender, event = item
            self._note(sender, event)
            if sender is leg and isinstance(event, pb.Granted | pb.Refused):
                return event
        raise self._failure

    async def rows(self) -> list[Row]:
        """The tokens that come next, gapless. Raises Interrupted when a worker fails.

        That comes after the tokens that came before it: they are in `job.tokens`, so that no attempt repeats them.
        """
        while not (rows := self._in_order()):
            if self._failure is not None:
                raise self._failure
            await self._inbox.wait()
            for sender, event in self._inbox.pop_all():
                if isinstance(event, pb.Refused) and sender.wanted:  # after it was granted: nothing more will come
                    self._failure = Interrupted(f"refused what it had granted: {event.message}")
                self._note(sender, event)
        return rows

    def _in_order(self) -> list[Row]:
        rows: list[Row] = []
        early, tokens, index = self._early, self.job.tokens, self.job.num_output
        while early and (row := early.pop(index, None)) is not None:
            tokens.append(row.token)
            rows.append(row)
            index += 1
        return rows

    def _note(self, sender: Leg, event: LegEvent) -> None:
        if not sender.wanted:
            return  # it was given up; what it still says is of no account
        if isinstance(event, Row):
            self._early[event.index] = event
            return
        ledger = self.job.ledger
        match event:
            case pb.PrefillDone():
                if not ledger.first_token_ns:
                    ledger.queue_ns, ledger.compute_ns = event.queue_ns, event.compute_ns
                    self.job.cached_tokens = max(self.job.cached_tokens, event.cached_tokens)
            case pb.KvArrived():
                if not ledger.second_token_ns:
                    ledger.commit_ns = event.commit_ns
            case Lost(reason, died):
                self._failure = Interrupted(reason, died=died)
            case pb.Failed():
                by_transfer = event.reason == pb.FAILURE_REASON_TRANSFER
                message = f"{pb.FailureReason.Name(event.reason)}: {event.message}"
                self._failure = Interrupted(message, by_transfer=by_transfer)


@dataclass(slots=True)
class _Inbox:
    """A queue with one reader. Every token passes it: waiting and putting cost a third of what `asyncio.Queue`'s do."""

    _items: "deque[tuple[Leg, LegEvent]]" = field(default_factory=deque)
    _waiter: "asyncio.Future[None] | None" = None

    def put_nowait(self, item: tuple[Leg, LegEvent], /) -> None:
        self._items.append(item)
        if self._waiter is not None:
            if not self._waiter.done():  # cancelled
                self._waiter.set_result(None)
            self._waiter = None

    async def wait(self) -> None:
        """Return once there is something."""
        if not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def pop_all(self) -> "deque[tuple[Leg, LegEvent]]":
        """Everything there is, oldest first."""
        items, self._items = self._items, deque()
        return items

    def pop(self) -> tuple[Leg, LegEvent] | None:
        """The oldest item, None if there is none."""
        return self._items.popleft() if self._items else None
