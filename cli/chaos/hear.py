"""From bytes and messages to what was heard of an answer, whole or as far as it came. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from cli.chaos.answers import Heard
from cli.chaos.asks import Ask
from cli.load.sse import events, parse_response
from protos import generate_pb2 as pb

DONE = b"[DONE]"
PARTS = ("sampling", "stopping", "output")
"""Of a GenerateRequest; what REST calls its fields, one of them calls so, too."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came over one connection."""

    status: int | None
    """None: not even a head."""
    heard: Heard
    is_whole: bool
    error: str | None
    """What the server said instead of an answer, or of the rest of one."""


class _Message(msgspec.Struct):
    content: str | None = None


class _Logprob(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    """Of completions or of chats."""

    token_logprobs: list[float] = []
    content: list[_Logprob] = []


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Message | None = None
    message: _Message | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Error(msgspec.Struct):
    message: str = ""


class _Body(msgspec.Struct):
    """One event of a stream, or a whole answer."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Body).decode


def read_rest(wire: bytes, *, stream: bool) -> Reply:
    response = parse_response(wire)
    request_id = _header(wire, b"x-request-id")
    if response.status is None:
        return Reply(None, Heard(request_id=request_id), False, None)
    if not stream or response.status != 200:
        bodies, is_whole = [response.body], True
    else:
        lines = [line for _, line in events([(0.0, wire)])]
        is_whole = DONE in lines
        bodies = [line for line in lines if line != DONE]
    try:
        parsed = [_decode(body) for body in bodies if body]
    except msgspec.DecodeError as error:
        # A body that was not heard to its end is no JSON yet.
        return Reply(response.status, Heard(request_id=request_id), False, str(error) if stream else None)
    failure = next((body.error.message for body in parsed if body.error), None)
    if failure is None and response.status != 200:
        failure = f"HTTP {response.status}"
    return Reply(response.status, _joined(parsed, request_id), is_whole and bool(parsed), failure)


def _joined(bodies: Iterable[_Body], request_id: str) -> Heard:
    texts: list[str] = []
    logprobs: list[float] = []
    finish, num_tokens = None, None
    for body in bodies:
        num_tokens = body.usage.completion_tokens if body.usage else num_tokens
        for choice in body.choices[:1]:
            said = choice.delta or choice.message
            texts.append((said.content if said else choice.text) or "")
            finish = choice.finish_reason or finish
            if choice.logprobs is not None:
                logprobs += choice.logprobs.token_logprobs or [one.logprob for one in choice.logprobs.content]
    return Heard(
        text="".join(texts), num_tokens=num_tokens, finish=finish, logprobs=tuple(logprobs), request_id=request_id
    )


def _header(wire: bytes, name: bytes) -> str:
    head = wire.partition(b"\r\n\r\n")[0]
    found = next((line for line in head.split(b"\r\n") if line.lower().startswith(name + b":")), b"")
    return found.partition(b":")[2].strip().decode("latin-1")


def request_of(ask: Ask, model: str) -> pb.GenerateRequest:
    request = pb.GenerateRequest(model=model)
    if isinstance(ask.prompt, str):
        request.text = ask.prompt
    else:
        request.token_ids.ids.extend(ask.prompt)
    for name, value in ask.fields.items():
        part = next(part for part in PARTS if name in getattr(request, part).DESCRIPTOR.fields_by_name)
        if isinstance(value, list):
            getattr(getattr(request, part), name).extend(value)
        else:
            setattr(getattr(request, part), name, value)
    return request


def read_grpc(messages: Iterable[pb.GenerateResponse]) -> Heard:
    texts: list[str] = []
    tokens: list[int] = []
    logprobs: list[float] = []
    finish, num_tokens, request_id, gap = None, None, "", None
    for message in messages:
        match message.WhichOneof("event"):
            case "started":
                request_id = message.started.request_id
            case "delta":
                delta = message.delta
                if delta.token_ids and delta.first_index != len(tokens):
                    gap = gap or f"a message begins at token {delta.first_index}, after {len(tokens)} tokens"
                texts.append(delta.text)
                tokens += delta.token_ids
                logprobs += [one.chosen.logprob for one in delta.logprobs]
            case "finished":
                finish = pb.FinishReason.Name(message.finished.reason)
                num_tokens = message.finished.usage.completion_tokens
    return Heard(
        text="".join(texts),
        tokens=tuple(tokens),
        gap=gap,
        num_tokens=num_tokens,
        finish=finish,
        logprobs=tuple(logprobs),
        request_id=request_id,
    )
