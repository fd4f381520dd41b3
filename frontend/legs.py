"""The legs of one attempt at a request, and what workers say of them, in the order that the answer has.

Tokens come over streams that know nothing of each other, token 1 from prefill and the rest from decode; they are
handed on by their numbers. A worker that fails ends the attempt. If it was the prefill worker, and decode still waits
for the KV, the decode leg lives on with its room: the next attempt goes on with it.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from engine.errors import InvalidRequest, ProtocolError, TandemError
from frontend.job import Job
from frontend.ledger import NUM_TIMED
from frontend.leg_events import LegEvent, Lost, Row, Start
from frontend.link import Leg, Link
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
    """The legs of one attempt, or of several that share a decode leg, and what they say."""

    job: Job
    reserved: Leg | None = None
    """The decode leg, for as long as its room outlives the loss of a prefill worker."""
    arrived: bool = False
    """Whether that room holds the prompt's KV."""
    num_tokens: int = 0
    """That the decode leg was admitted with."""
    _inbox: "_Inbox" = field(default_factory=lambda: _Inbox())
    _legs: list[Leg] = field(default_factory=list)
    _early: dict[int, Row] = field(default_factory=dict)
    """Tokens that wait for one before them."""
    _failure: TandemError | None = None

    def add(self, link: Link, admit: pb.Admit) -> Leg:
        leg = link.admit(admit, self._inbox)
        self._legs.append(leg)
        self.job.ledger.sent()
        if not admit.HasField("push"):
            self.reserved = leg if admit.HasField("reserve") else None
            self.arrived, self.num_tokens = False, len(admit.token_ids)
        return leg

    def abort(self) -> None:
        self.reserved = None
        for leg in self._legs:
            leg.abort()

    def keep_room(self) -> bool:
        """Abort all but the decode leg, if it waits for its KV or has it; say whether there is one.

        Tokens that were not handed on are forgotten: whoever takes the lost worker's place samples them again.
        """
        if self.reserved is None or self.reserved.over or (self.arrived and not self._knows_first_token()):
            return False
        for leg in self._legs:
            if leg is not self.reserved:
                leg.abort()
        if not self.arrived:
            self._early.clear()
        return True

    def go_on(self) -> None:
        """Begin another attempt with the room that was kept. Raises Interrupted if that is no use any more."""
        self._failure = None
        for sender, event in self._inbox.pop_all():
            self._note(sender, event)
        if self._failure is not None:
            raise self._failure
        if self.arrived:
            self._check_first_token()

    async def regranted(self, *, local: bool) -> pb.Granted | None:
        """Have the room filled by another prefill worker, or by decode itself; None if it is filled already.

        Raises Interrupted when a worker fails meanwhile.
        """
        leg, job = self.reserved, self.job
        assert leg is not None, "the room is lost"
        regrant = pb.Regrant(leg=leg.number, attempt=job.attempt)
        if len(job.tokens) > self.num_tokens:
            regrant.heard = job.tokens[self.num_tokens]
        (regrant.local if local else regrant.reserve).SetInParent()
        self.job.ledger.sent()
        leg.link.regrant(regrant)
        answer = await self.answer(leg)
        match answer:
            case pb.KvArrived():
                self._check_first_token()
                return None
            case pb.Refused():
                raise Interrupted(f"refused what it had granted: {answer.message}")
        if local:
            self.reserved = None
        return answer

    async def answer(self, leg: Leg) -> pb.Granted | pb.Refused | pb.KvArrived:
        """Wait for the worker's answer to this leg; KvArrived only where it was granted before.

        Raises Interrupted when a worker fails meanwhile.
        """
        while self._failure is None:
            if (item := self._inbox.pop()) is None:
                await self._inbox.wait()
                continue
            sender, event = item
            self._note(sender, event)
            if sender is leg and isinstance(event, pb.Granted | pb.Refused | pb.KvArrived):
                return event
        raise self._failure

    async def rows(self) -> list[Row]:
        """The tokens that come next, gapless. Raises Interrupted when a worker fails, and InvalidRequest when
        the grammar has led to where no token may follow.

        That comes after the tokens that came before it: they are in `job.tokens`, so that no attempt repeats them.
        """
        while not (rows := self._in_order()):
            if self._failure is not None:
                raise self._failure
            await self._inbox.wait()
            for sender, event in self._inbox.pop_all():
                if isinstance(event, pb.Refused) and sender.wanted:  # after it was granted: nothing more will come
                    self._fail(sender, Interrupted(f"refused what it had granted: {event.message}"))
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
            if event.index < NUM_TIMED:
                self.job.ledger.heard(event, sender.link.clock.here(event.end_ns))
            return
        ledger = self.job.ledger
        match event:
            case pb.PrefillDone():
                if not ledger.first_token_ns:
                    ledger.queue_ns, ledger.compute_ns = event.queue_ns, event.compute_ns
                    self.job.cached_tokens = max(self.job.cached_tokens, event.cached_tokens)
            case pb.PromptScores():
                self._take_scores(sender, event)
            case pb.KvArrived():
                self.arrived = True
                if not ledger.second_token_ns:
                    ledger.commit_ns = event.commit_ns
            case Lost(reason, died):
                self._fail(sender, Interrupted(reason, died=died))
            case pb.Failed() if event.reason == pb.FAILURE_REASON_DEAD_END:  # it would be so anywhere
                message = f"the answer came to where nothing may follow: {event.message}"
                self._fail(sender, InvalidRequest(message, field="grammar"))
            case pb.Failed():
                by_transfer = event.reason == pb.FAILURE_REASON_TRANSFER
                message = f"{pb.FailureReason.Name(event.reason)}: {event.message}"
                self._fail(sender, Interrupted(message, by_transfer=by_transfer))
            case pb.Released() if sender is self.reserved:  # nobody aborted it
                self._fail(sender, Interrupted("the decode worker holds nothing for it any more"))

    def _take_scores(self, sender: Leg, event: pb.PromptScores) -> None:
        if self.job.scores is not None and not self.job.num_output:
            try:
                self.job.scores.take(event)
            except ProtocolError as error:
                self._fail(sender, Interrupted(error.message))

    def _fail(self, sender: Leg, failure: TandemError) -> None:
        if sender is self.reserved:
            self.reserved = None
        elif self.reserved is not None and self.arrived and self._knows_first_token():
            return  # a prefill worker of which nothing more is to come
        self._failure = failure

    def _check_first_token(self) -> None:
        if not self._knows_first_token():
            raise Interrupted("the KV came, but the token that came with it was lost with its worker")

    def _knows_first_token(self) -> bool:
        """Whether the token that comes with the KV is here, or was."""
        return len(self.job.tokens) > self.num_tokens or self.num_tokens - self.job.num_prompt in self._early


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
