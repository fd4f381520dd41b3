"""What OpenAI's two generating endpoints spell differently, and what an answer is before it is spelled."""

import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from frontend.api import Inference
from frontend.request import CallDelta, Delta, Event, Finish, Finished, GenerateRequest, Started, TokenLogprobs
from frontend.rest.openai_logprobs import Offsets
from frontend.rest.openai_parse import Ask
from frontend.rest.openai_responses import CompletionUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What an answer, and each chunk of it, says of itself. Fields are those of the JSON."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def of(cls, started: Started, id_prefix: str, object_name: str) -> "Head":
        return cls(
            id=id_prefix + started.request_id.removeprefix("req-"),
            object=object_name,
            created=int(time.time()),
            model=started.model,
            system_fingerprint="fp_" + hashlib.sha256(started.model.encode()).hexdigest()[:10],
        )


@dataclass(slots=True)
class Call:
    """One call of a tool as far as it has been generated."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Choice:
    """One choice as far as it has been generated."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finished: Finished | None = None

    def take(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.logprobs.extend(delta.logprobs)
        if delta.reasoning:
            self.thoughts.append(delta.reasoning)
        for call in delta.calls:
            self._take_call(call)

    def _take_call(self, call: CallDelta) -> None:
        if call.id is not None:
            self.calls.append(Call(call.id, call.name or ""))
        self.calls[call.index].arguments.append(call.arguments)

    @property
    def final(self) -> Finished:
        assert self.finished is not None, "an answer ended without Finished"
        return self.finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What chat and completions spell differently."""

    parse: Callable[[bytes], Ask]
    generate: Callable[[Inference, GenerateRequest], AsyncGenerator[Event, None]]
    id_prefix: str
    object: str
    whole: Callable[[Head, Sequence[Choice], CompletionUsage], msgspec.Struct]
    logprobs: Callable[[Sequence[TokenLogprobs], Offsets], msgspec.Struct]
    chunk_object: str
    opening: bytes | None
    """Fields of a choice's first chunk, if there is one before the text."""
    before_text: bytes
    after_text: bytes
    closing: bytes
    """Fields of a choice's last chunk."""
    parts: Callable[[Delta], list[bytes]] | None = None
    """Fields of the chunks that a delta with reasoning or calls takes, where there is such a thing."""
    calls_reason: str = Finish.TOOL_CALLS.value
    """Why an answer ends that has called."""
    functions: "Format | None" = None
    """The same for who sent functions instead of tools."""

    def reason(self, finish: Finish) -> str:
        return self.calls_reason if finish is Finish.TOOL_CALLS else finish.value
