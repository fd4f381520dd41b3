"""What generate and chat say, in Ollama's JSON: one line of a stream, or a whole answer.

A call is told once it is complete, its arguments as an object. One whose arguments are no JSON object, because the
answer was cut or the model went astray, is text. Does not know how answers are sent.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from frontend.events import CallDelta, TokenLogprob, TokenLogprobs
from frontend.rest.answers import Call
from frontend.rest.ollama.answer_types import (
    OllamaAnswerCall,
    OllamaAnswerMessage,
    OllamaCalledFunction,
    OllamaChatResponse,
    OllamaGenerateResponse,
    OllamaLogprob,
    OllamaTopLogprob,
)

LEAST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Of an answer, or all of it."""

    text: str = ""
    thinking: str = ""
    calls: Sequence[Call] = ()
    num_calls_before: int = 0
    logprobs: Sequence[TokenLogprobs] = ()
    end: dict[str, Any] = field(default_factory=dict)
    """Fields of the answer's last line."""


def generate_line(model: str, part: Part) -> OllamaGenerateResponse:
    return OllamaGenerateResponse(
        model=model,
        created_at=datetime.now(UTC),
        response=part.text,
        thinking=part.thinking or UNSET,
        logprobs=_logprobs(part.logprobs) or UNSET,
        **part.end,
    )


def chat_line(model: str, part: Part) -> OllamaChatResponse:
    calls, texts = _calls(part)
    message = OllamaAnswerMessage(
        content="".join((part.text, *texts)), thinking=part.thinking or UNSET, tool_calls=calls or UNSET
    )
    return OllamaChatResponse(
        model=model,
        created_at=datetime.now(UTC),
        message=message,
        logprobs=_logprobs(part.logprobs) or UNSET,
        **part.end,
    )


class Calls:
    """Puts the calls of a stream together."""

    def __init__(self) -> None:
        self.num_complete = 0
        self._open: Call | None = None

    def take(self, deltas: Sequence[CallDelta]) -> list[Call]:
        """The calls that are complete now, because another has begun."""
        complete = []
        for delta in deltas:
            if delta.id is not None:
                complete += self.end()
                self._open = Call(delta.id, delta.name or "")
            assert self._open is not None, "a call began without its id"
            self._open.arguments.append(delta.arguments)
        return complete

    def end(self) -> list[Call]:
        """The call of which nothing more comes, if there is one."""
        complete, self._open = [] if self._open is None else [self._open], None
        self.num_complete += len(complete)
        return complete


def _calls(part: Part) -> tuple[list[OllamaAnswerCall], list[str]]:
    """The calls, and those that are none, as text."""
    calls, texts = [], []
    for index, call in enumerate(part.calls, part.num_calls_before):
        written = "".join(call.arguments)
        arguments = _arguments(written or "{}")
        if arguments is None:
            texts.append(f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {written}')
        else:
            function = OllamaCalledFunction(index=index, name=call.name, arguments=arguments)
            calls.append(OllamaAnswerCall(id=call.id, function=function))
    return calls, texts


def _arguments(text: str) -> Raw | None:
    """Of one line, and with numbers as they were written; None where it is no JSON object."""
    try:
        is_object = isinstance(msgspec.json.decode(text), dict)
        return Raw(msgspec.json.format(text, indent=-1)) if is_object else None
    except (ValueError, RecursionError):
        return None


def _logprobs(logprobs: Sequence[TokenLogprobs]) -> list[OllamaLogprob]:
    return [_logprob(entry) for entry in logprobs]


def _logprob(entry: TokenLogprobs) -> OllamaLogprob:
    top = [OllamaTopLogprob(**_token(other)) for other in entry.top]
    return OllamaLogprob(**_token(entry.chosen), top_logprobs=top or UNSET)


def _token(entry: TokenLogprob) -> dict[str, Any]:
    text = entry.token.decode(errors="replace")  # not always whole characters
    return {"token": text, "logprob": max(entry.logprob, LEAST), "bytes": list(entry.token)}
