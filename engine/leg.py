"""One request's work on a worker, the frontend that it is done for, and what that one hears of a step."""

import asyncio
from dataclasses import dataclass, field

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


@dataclass(slots=True, eq=False)
class FrontendSession:
    """One frontend's stream."""

    name: str
    outbox: asyncio.Queue[pb.WorkerEvent | None] = field(default_factory=asyncio.Queue)
    legs: dict[int, Leg] = field(default_factory=dict)

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
