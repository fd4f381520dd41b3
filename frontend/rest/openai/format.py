"""What OpenAI's two generating endpoints spell differently."""

import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from frontend.api import Inference
from frontend.events import Delta, Event, Finish, Started, TokenLogprobs
from frontend.request import GenerateRequest
from frontend.rest.answers import Choice
from frontend.rest.openai.answer_types import ChatFinishReason, CompletionUsage
from frontend.rest.openai.logprobs import Offsets
from frontend.rest.openai.parse import Ask


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


class Parse(Protocol):
    def __call__(self, body: bytes, *, lenient: bool = False) -> Ask:
        """Raises InvalidRequest. What nobody has is left out if `lenient`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What chat and completions spell differently."""

    parse: Parse
    generate: Callable[[Inference, GenerateRequest], AsyncGenerator[Event, None]]
    id_prefix: str
    object: str
    whole: Callable[["Format", Head, Sequence[Choice], CompletionUsage], msgspec.Struct]
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
    calls_reason: ChatFinishReason = "tool_calls"
    """Why an answer ends that has called."""
    prompts_differ: bool = False
    """Each choice tells the tokens of its own prompt, where that is asked for."""
    as_function: bool = False
    """A call is spelled as it was before tools."""
    functions: "Format | None" = None
    """The same for who sent functions instead of tools."""
    echo_logprobs: int | None = None
    """As in `Ask`, as the next."""
    prompt_logprobs: int | None = None

    def of(self, ask: Ask) -> "Format":
        """As this request wants it."""
        form = self.functions or self if ask.functions else self
        if ask.echo_logprobs is not None or ask.prompt_logprobs is not None:
            form = replace(form, echo_logprobs=ask.echo_logprobs, prompt_logprobs=ask.prompt_logprobs)
        return replace(form, calls_reason="stop") if ask.names_tool else form

    def reason(self, finish: Finish) -> ChatFinishReason:
        match finish:
            case Finish.TOOL_CALLS:
                return self.calls_reason
            case Finish.LENGTH:
                return "length"
            case Finish.STOP:
                return "stop"
