"""What a leg's worker says of it, as the frontend hears it: messages of the wire, rows of a step, and silence."""

from dataclasses import dataclass

import msgspec

from protos import worker_pb2 as pb


class Row(msgspec.Struct, frozen=True, gc=False):  # one per token: a frozen dataclass takes several times as long
    """One token of a leg. `finish` is unspecified while the answer goes on."""

    index: int
    token: int
    finish: "pb.FinishReason"
    logprobs: pb.Logprobs | None
    start_ns: int
    end_ns: int
    vector: bytes = b""
    """The prompt as one (little-endian float32), with the first token, for who asked."""
    heard_ns: int = 0
    """When the frontend heard of it, `time.monotonic_ns()`; the two before are the worker's."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a worker."""

    address: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream to the leg's worker broke."""

    reason: str
    of: Start | None = None
    """The worker that perhaps died, for it had not said that it would go; whether it did, its next hello tells."""


LegEvent = (
    Row | pb.Granted | pb.Refused | pb.PrefillDone | pb.PromptScores | pb.KvArrived | pb.Failed | pb.Released | Lost
)
