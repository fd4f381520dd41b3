"""A request on its way, over all its attempts."""

import time
from dataclasses import dataclass

from engine.sequence import BlockHash, SamplingParams
from engine.wire import sampling_to
from frontend.callers import Caller
from frontend.ledger import Ledger
from frontend.router import Need, Placement
from protos import worker_pb2 as pb


@dataclass(slots=True)
class Job:
    """What was asked, complete; what came of it so far; and where its time went."""

    request_id: str
    model: str
    tokens: list[int]
    """Prompt and output so far."""
    num_prompt: int
    params: SamplingParams
    caller: Caller
    hashes: list[BlockHash]
    """Of the prompt's full blocks."""
    traceparent: str
    ledger: Ledger
    cached_tokens: int = 0
    attempt: int = 0
    placement: Placement | None = None

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    def note_granted(self, granted: pb.Granted) -> None:
        """A decode worker has promised room to this attempt."""
        if not self.num_output:
            self.cached_tokens = granted.cached_tokens
            self.ledger.granted_ns = time.monotonic_ns()
        if not self.ledger.second_token_ns:
            self.ledger.commit_ns = 0  # of an earlier attempt

    def need(self) -> Need:
        return Need(self.model, len(self.tokens), self.num_prompt + self.params.max_tokens, tuple(self.hashes))

    def admit(self) -> pb.Admit:
        return pb.Admit(
            request_id=self.request_id,
            attempt=self.attempt,
            token_ids=self.tokens,
            num_prompt=self.num_prompt,
            block_hashes=b"".join(self.hashes),
            hash_root=self.caller.hash_root,
            sampling=sampling_to(self.params),
            traceparent=self.traceparent,
        )
