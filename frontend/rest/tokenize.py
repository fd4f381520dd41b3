"""POST /tokenize and /detokenize, which several servers have, each with a JSON of its own: the body shows whose it is.

    prompt     a text, as vLLM and SGLang take it      messages   a conversation, as vLLM takes it
    content    a text, as llama.cpp takes it           inputs     a text, as TGI takes it

What is sent to /detokenize looks alike everywhere, so its answer has the text under each server's name for it.
Does not know tokenizers.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from frontend.api import Inference
from frontend.callers import Caller
from frontend.checks import MAX_PROMPT_IDS, check_count, check_token_ids
from frontend.fields import Body, Off, convert, decode_body, one_of, supported
from frontend.request import Chat
from frontend.rest.describe import also, any_of, content, post, ref
from frontend.rest.dialect import ERRORS, Errors, Json
from frontend.rest.middleware import CALLER
from frontend.rest.openai.errors import OpenAIErrors
from frontend.rest.openai.parse import parse_chat
from frontend.rest.tgi.errors import TgiErrors

Page = Callable[[Request], Awaitable[Response]]


class TokenizeText(Struct, frozen=True, kw_only=True):
    """vLLM's, and SGLang's."""

    prompt: str
    model: str | None = None
    add_special_tokens: Annotated[bool, Meta(description="Default: true.")] | None = None
    return_token_strs: Annotated[bool, Meta(description="Tokens as the vocabulary has them, too.")] | None = None


class TokenizeMessages(Struct, frozen=True, kw_only=True):
    """vLLM's. The conversation is read as that of a chat completion."""

    messages: list[dict[str, Any]]
    model: str | None = None
    add_generation_prompt: Annotated[bool, Meta(description="Default: true.")] | None = None
    continue_final_message: bool | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: Annotated[bool, Meta(description="Beside those of the template. Default: false.")] | None = None
    return_token_strs: bool | None = None


class TokenizeContent(Struct, frozen=True, kw_only=True):
    """llama.cpp's."""

    content: str
    model: str | None = None
    add_special: Annotated[bool, Meta(description="Default: false.")] | None = None
    with_pieces: Annotated[bool, Meta(description="Tell each token's text, or its bytes.")] | None = None


class TokenizeInputs(Struct, frozen=True, kw_only=True):
    """TGI's."""

    inputs: str


class TokenizedText(Struct, frozen=True, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class TokenPiece(Struct, frozen=True, kw_only=True):
    id: int
    piece: Annotated[str | list[int], Meta(description="Its text; its bytes where they are no text.")]


class TokenizedContent(Struct, frozen=True, kw_only=True):
    tokens: list[int | TokenPiece]


class TokenPlace(Struct, frozen=True, kw_only=True):
    """`start` and `stop` count bytes of the inputs; both are 0 of a token that was added."""

    id: int
    text: str
    start: int
    stop: int


class DetokenizeRequest(Struct, frozen=True, kw_only=True):
    tokens: list[int]
    model: str | None = None
    skip_special_tokens: Annotated[bool, Meta(description="Default: false.")] | None = None


class DetokenizedText(Struct, frozen=True, kw_only=True):
    """The same text, as vLLM, llama.cpp and SGLang call it."""

    prompt: str
    content: str
    text: str


class DetokenizedPrompt(Struct, frozen=True, kw_only=True):
    """As vLLM calls it."""

    prompt: str


class DetokenizedContent(Struct, frozen=True, kw_only=True):
    """As llama.cpp does."""

    content: str


MESSAGES_OFF: Off = MappingProxyType({"chat_template": (), "mm_processor_kwargs": ({},), "media_io_kwargs": ({},)})
CONTENT_OFF: Off = MappingProxyType({"parse_special": (True,)})
INPUTS_OFF: Off = MappingProxyType({"parameters": ({},)})
CONVERSATION = ("messages", "add_generation_prompt", "continue_final_message", "tools", "chat_template_kwargs")


def tokenize_endpoint(inference: Inference, *, only: Sequence[str] = ()) -> Page:
    """`only` bodies of these shapes, where other servers are not: whose path it is tells errors in his words."""
    shapes = {name: SHAPES[name] for name in only} or SHAPES

    async def tokenize(request: Request) -> Response:
        body = decode_body(await request.body())
        shape = shapes[one_of(body, shapes)]
        if not only:
            request.scope[ERRORS] = shape.errors
        return _json(await asyncio.to_thread(shape.answer, inference, request.scope[CALLER], body))

    return tokenize


def detokenize_endpoint(inference: Inference, answer: type[Struct] = DetokenizedText) -> Page:
    """`answer` has the text under all of its names."""

    async def detokenize(request: Request) -> Response:
        fields = supported(decode_body(await request.body()), DetokenizeRequest, {})
        if isinstance(tokens := fields.get("tokens"), list):
            check_count(tokens, MAX_PROMPT_IDS, "tokens")
        given = convert(fields, DetokenizeRequest)
        model = inference.model(given.model, request.scope[CALLER])
        check_token_ids(tuple(given.tokens), model.vocab_size, "tokens")
        skip = bool(given.skip_special_tokens)
        text = await asyncio.to_thread(inference.detokenize, model.name, given.tokens, skip_special_tokens=skip)
        return _json(msgspec.convert(dict.fromkeys(answer.__struct_fields__, text), answer))

    return detokenize


def _text(inference: Inference, caller: Caller, body: Body) -> TokenizedText:
    given = convert(supported(body, TokenizeText, {}), TokenizeText)
    return _tokenized(inference, caller, given, given.prompt)


def _messages(inference: Inference, caller: Caller, body: Body) -> TokenizedText:
    given = convert(supported(body, TokenizeMessages, MESSAGES_OFF), TokenizeMessages)
    try:
        asked = json.dumps({"model": "", **{name: body[name] for name in CONVERSATION if name in body}})
    except RecursionError:
        raise InvalidRequest("the request body is nested too deeply") from None
    prompt = parse_chat(asked.encode()).generations[0].prompt
    assert isinstance(prompt, Chat)
    return _tokenized(inference, caller, given, prompt)


def _tokenized(
    inference: Inference, caller: Caller, given: TokenizeText | TokenizeMessages, prompt: str | Chat
) -> TokenizedText:
    model = inference.model(given.model, caller)
    tokens = inference.tokenize(model.name, prompt, add_special_tokens=given.add_special_tokens)
    words = list(map(inference.vocabulary(model.name).word, tokens)) if given.return_token_strs else None
    return TokenizedText(count=len(tokens), max_model_len=model.max_context, tokens=tokens, token_strs=words)


def _content(inference: Inference, caller: Caller, body: Body) -> TokenizedContent:
    given = convert(supported(body, TokenizeContent, CONTENT_OFF), TokenizeContent)
    model = inference.model(given.model, caller).name
    tokens = inference.tokenize(model, given.content, add_special_tokens=bool(given.add_special))
    if not given.with_pieces:
        return TokenizedContent(tokens=list(tokens))
    return TokenizedContent(
        tokens=[TokenPiece(id=token, piece=_piece(inference.token_bytes(model, token))) for token in tokens]
    )


def _piece(token: bytes) -> str | list[int]:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return list(token)


def _inputs(inference: Inference, caller: Caller, body: Body) -> list[TokenPlace]:
    given = convert(supported(body, TokenizeInputs, INPUTS_OFF), TokenizeInputs)
    spans = inference.vocabulary(inference.model(None, caller).name).spans(given.inputs)
    starts = _byte_starts(given.inputs)
    return [
        TokenPlace(
            id=span.token_id,
            text=given.inputs[span.start : span.stop],
            start=starts[span.start],
            stop=starts[span.stop],
        )
        for span in spans
    ]


def _byte_starts(text: str) -> Sequence[int]:
    """Where each character begins in UTF-8, and where the text ends."""
    if text.isascii():
        return range(len(text) + 1)
    return list(accumulate((len(char.encode()) for char in text), initial=0))


@dataclass(frozen=True, slots=True)
class Shape:
    """Of one server's body."""

    answer: Callable[[Inference, Caller, Body], object]
    """Takes its time. Raises TandemError."""
    errors: Errors


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "prompt": Shape(_text, OpenAIErrors()),
        "messages": Shape(_messages, OpenAIErrors()),
        "content": Shape(_content, OpenAIErrors()),
        "inputs": Shape(_inputs, TgiErrors()),
    }
)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


REQUESTS: tuple[type[Struct], ...] = (
    TokenizeText,
    TokenizeMessages,
    TokenizeContent,
    TokenizeInputs,
    DetokenizeRequest,
)
SCHEMAS: tuple[type[Struct], ...] = (
    *REQUESTS,
    TokenizedText,
    TokenPiece,
    TokenizedContent,
    TokenPlace,
    DetokenizedText,
)


def operations() -> dict[str, Json]:
    tokenize = post(
        "The tokens of a text or of a conversation",
        any_of(*map(ref, REQUESTS[:-1])),
        any_of(ref(TokenizedText), ref(TokenizedContent), {"type": "array", "items": ref(TokenPlace)}),
        error="ErrorBody",
        description="As vLLM (prompt, messages), llama.cpp (content) or TGI (inputs) takes and answers it.",
    )
    asked, told = (content("application/json", ref(kind)) for kind in (DetokenizeRequest, DetokenizedText))
    detokenize = post("The text of tokens", asked, told, error="ErrorBody")
    return {
        "/tokenize": {"post": also(tokenize, 422, "The request has inputs, and is malformed.", error="TgiError")},
        "/detokenize": {"post": detokenize},
    }
