"""What a dialect may call: the one seam between the public surfaces (gRPC, REST) and serving.

`Inference` is implemented by `frontend.inference`; tests of a dialect give it a fake.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from engine.histogram import Steps
from engine.models.spec import ModelSpec
from engine.pooling import Pooling
from frontend.accounts import Accounts
from frontend.callers import ANYBODY, Caller
from frontend.events import Event
from frontend.recorder import Recorder
from frontend.request import Chat, GenerateRequest
from frontend.tally import Counts
from frontend.text.spans import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that requests can name."""

    name: str
    created: int
    """Unix seconds at which the frontend first could serve it."""
    max_context: int
    vocab_size: int
    has_chat_template: bool
    pooling: Pooling = Pooling.MEAN
    """How its prompts become vectors, unless who asks says it."""
    chat_template: str = ""
    """The Jinja source of the one for conversations without tools."""
    template_variables: frozenset[str] = frozenset()
    """Names that its templates read, like enable_thinking."""
    bos_token: str = ""
    eos_token: str = ""
    calls_tools: bool = False
    """Whether it is told of tools, and its calls are told from the rest of its answers."""
    reasons: bool = False
    """Whether its reasoning is."""
    infills: bool = False
    """Whether it has tokens for what stands between two texts."""
    spec: ModelSpec | None = None
    """Its dimensions."""
    size_bytes: int = 0
    """Of the files with its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """One of the models as the frontend sees it now."""

    name: str
    aliases: Sequence[str]
    fallback: Sequence[str]
    """Who answers, in this order, while no decode worker serves it."""
    ready: bool
    reason: str
    """Why it is not."""
    queued_requests: int
    """That wait for a worker of its."""
    max_queued_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLinkStatus:
    """What one prefill worker has sent to one decode worker, one way, since its start."""

    decode: str
    transport: str
    size_bytes: int
    transfers: int
    failures: Mapping[str, int]
    """By why."""
    bytes_per_s: float
    in_flight: int
    """Transfers that are sending now."""
    in_flight_bytes: int


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
    steps: Steps = Steps()
    """Since the worker's start."""
    links: tuple[KvLinkStatus, ...] = ()
    """Of a prefill worker, to decode workers."""
    clock_ahead_s: float | None = None
    """How far its wall clock is ahead of the frontend's, by round trips; None until there was one."""
    clock_within_s: float | None = None
    """It may be so much more or less."""
    state: str = ""
    """Why the worker takes no requests; empty if it does."""
    counts: Counts
    """Over all starts of the worker that this frontend has met."""
    pool_share: float = field(init=False)
    """Of its KV blocks, those that cannot be taken."""
    tokens_per_s: float = field(init=False)
    """What it computes, of prompts or of answers; 0 until there is a measurement."""

    def __post_init__(self) -> None:
        # The one place that computes them: who draws a worker is told.
        object.__setattr__(self, "pool_share", pool_share((self,)))
        made = self.running / self.decode_step_s if self.decode_step_s else 0.0
        object.__setattr__(self, "tokens_per_s", made if self.role == "decode" else self.prefill_tokens_per_s)

    @property
    def name(self) -> str:
        """A worker that is away has no id; two samples with the same labels would fail a scrape."""
        return self.worker_id or self.address


def pool_share(workers: Collection[WorkerStatus]) -> float:
    """Of the KV blocks of all of them, those that cannot be taken."""
    there = sum(worker.num_blocks for worker in workers)
    return 1 - sum(worker.free_blocks for worker in workers) / there if there else 0.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a request would succeed now, and if not, why."""

    ready: bool
    reason: str


class Vocabulary(Protocol):
    """A model's tokens, for who wants to know more of them than their text. May be used by several threads."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that no text is made of."""

    def word(self, token_id: int) -> str:
        """The token as it stands in the vocabulary; empty for an id that is not there."""

    def spans(self, text: str, *, add_special_tokens: bool = True) -> list[Span]:
        """The tokens of `text`, each with where it stands. Raises InvalidRequest as `Inference.tokenize`."""


class Inference(Protocol):
    """Serves requests of any dialect. Methods raise engine.errors.TandemError and nothing else."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Answer `request`: Started, then Deltas, then Finished.

        Everything that can be refused raises before Started. Closing the generator (`contextlib.aclosing`) aborts the
        work on every worker. Deltas drain what is ready: the first token comes alone and at once.
        """

    def tokenize(self, model: str | None, text: str | Chat, *, add_special_tokens: bool | None = None) -> list[int]:
        """The token ids that `generate` would use for this prompt, and for its `add_special_tokens`."""

    def render(self, model: str | None, chat: Chat) -> str:
        """The text that the model's chat template makes of a conversation."""

    def detokenize(self, model: str | None, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...

    def token_bytes(self, model: str | None, token_id: int) -> bytes:
        """The bytes of one token of the vocabulary."""

    def vocabulary(self, model: str | None) -> Vocabulary: ...

    def tokenizer_config(self, model: str | None) -> Mapping[str, object]:
        """What the model's files say of its tokenizer, by the names of `tokenizer_config.json`, but no paths. Special
        tokens that have a name are texts; the chat template is the one in use."""

    def models(self, caller: Caller = ANYBODY) -> list[ServedModel]:
        """That the caller may ask, by every name that they have."""

    def model(self, name: str | None, caller: Caller = ANYBODY) -> ServedModel:
        """The model that a request naming `name` asks for, by its own name; None or empty is the default.

        Raises UnknownModel, and PermissionDenied for one that the caller may not ask. The methods above, which take a
        name, ask nobody who calls.
        """

    def statuses(self) -> list[ModelStatus]:
        """Of every model; the default is the first."""

    def workers(self) -> list[WorkerStatus]: ...

    @property
    def counts(self) -> Counts:
        """Of all workers that this frontend has met, those that are gone among them."""

    @property
    def recorder(self) -> Recorder:
        """What became of requests."""

    @property
    def accounts(self) -> Accounts:
        """What was used, by key and model."""

    def readiness(self, model: str | None = None) -> Readiness:
        """Of one model; None is the default, and with it the server. Raises UnknownModel."""

    async def custody(self) -> list[dict[str, object]]:
        """Every worker's custody report, as JSON values."""

    @property
    def active_requests(self) -> int:
        """Under way, those that wait among them."""

    @property
    def queued_requests(self) -> int:
        """Of all models; each has a queue of its own."""

    @property
    def queued_tokens(self) -> int:
        """Of the prompts of those who wait for a worker."""

    @property
    def max_queued_requests(self) -> int: ...
