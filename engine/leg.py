"""One request's work on a worker, the frontend that it is done for, and what that one hears of a step."""

import asyncio
from dataclasses import dataclass, field

from engine.clock import Axis, own_axis
from engine.sequence import SequenceId
from protos import worker_pb2 as pb


@dataclass(slots=True)
class Leg:
    """One request's work on this worker, for one frontend."""

    id: SequenceId
    session: "FrontendSession"
    number: int
    request_id: str
    attempt: int
    traceparent: str
    admitted_at: float
    """`time.monotonic()`"""
    lease_ends_at: float
    given_up: str = ""
    """Why, once it is."""

    @property
    def axis(self) -> Axis:
        """Of time, on which its frontend tells a trace."""
        return self.session.axis or own_axis()


@dataclass(slots=True, eq=False)
class FrontendSession:
    """One frontend's stream."""

    name: str
    outbox: asyncio.Queue[pb.WorkerEvent | None] = field(default_factory=asyncio.Queue)
    legs: dict[int, Leg] = field(default_factory=dict)
    axis: Axis | None = None
    """The frontend's, as it said last; None until it knows it."""

    def send(self, event: pb.WorkerEvent) -> None:
        self.outbox.put_nowait(event)


@dataclass(frozen=True, slots=True)
class Row:
    """One sampled token of a step, as it is sent. `last`: the leg is over."""

    id: SequenceId
    index: int
    token: int
    finish: "pb.FinishReason"
    last: bool
    logprobs: pb.Logprobs | None = None
    vector: bytes = b""
    """The prompt as one, with the first token, for who asked."""
