"""What a dialect may call: the one seam between the public surfaces (gRPC, REST) and serving.

`Inference` is implemented by `frontend.inference`; tests of a dialect give it a fake.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from frontend.recorder import Recorder
from frontend.request import Chat, Event, GenerateRequest
from frontend.tally import Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that requests can name."""

    name: str
    created: int
    """Unix seconds at which the frontend first could serve it."""
    max_context: int
    vocab_size: int
    has_chat_template: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker as the frontend sees it now."""

    worker_id: str
    role: str
    address: str
    model: str
    ready: bool
    num_blocks: int
    free_blocks: int
    cached_blocks: int
    promised_blocks: int
    leaked_blocks: int
    block_tokens: int
    running: int
    queued: int
    queued_tokens: int = 0
    """Of prompts, still to be computed."""
    max_sequences: int = 0
    """The largest batch."""
    prefill_tokens_per_s: float = 0.0
    """Measured, a moving average, as are those that follow; 0 until there is a measurement."""
    decode_step_s: float = 0.0
    transfer_bytes_per_s: float = 0.0
    """To decode workers."""
    slowdown: float = 0.0
    """What steps take against what they took at the worker's start."""
    state: str = ""
    """Why the worker takes no requests; empty if it does."""
    counts: Counts
    """Over all starts of the worker that this frontend has met."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a request would succeed now, and if not, why."""

    ready: bool
    reason: str


class Inference(Protocol):
    """Serves requests of any dialect. Methods raise engine.errors.TandemError and nothing else."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Answer `request`: Started, then Deltas, then Finished.

        Everything that can be refused raises before Started. Closing the generator (`contextlib.aclosing`) aborts the
        work on every worker. Deltas drain what is ready: the first token comes alone and at once.
        """

    def tokenize(self, model: str | None, text: str | Chat, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids that `generate` would use for this prompt."""

    def detokenize(self, model: str | None, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...

    def token_bytes(self, model: str | None, token_id: int) -> bytes:
        """The bytes of one token of the vocabulary."""

    def models(self) -> list[ServedModel]: ...

    def model(self, name: str | None) -> ServedModel:
        """The model that a request naming `name` gets; None or empty is the only one. Raises UnknownModel."""

    def workers(self) -> list[WorkerStatus]: ...

    @property
    def counts(self) -> Counts:
        """Of all workers that this frontend has met, those that are gone among them."""

    @property
    def recorder(self) -> Recorder:
        """What became of requests."""

    def readiness(self) -> Readiness: ...

    async def custody(self) -> list[dict[str, object]]:
        """Every worker's custody report, as JSON values."""

    @property
    def queued_requests(self) -> int: ...

    @property
    def max_queued_requests(self) -> int: ...
