"""POST /v1/embeddings: texts, or tokens, to vectors of unit length."""

import base64
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from frontend.api import Inference
from frontend.embedding import embedding_request, floats, unit
from frontend.request import MAX_PROMPT_IDS, Event, Finished, Started, check_count
from frontend.rest.answers import answer
from frontend.rest.fields import Off, convert, decode_body, supported
from frontend.rest.openai.parse import prompts_of
from frontend.rest.openai.request_types import IgnoredText

MAX_INPUTS = 2_048
AT_ONCE = 16
"""Inputs of one request that are under way: the others' callers shall not wait for all of them."""
OFF: Off = {"dimensions": (), "input_type": (), "truncate_prompt_tokens": (), "priority": (0,)}
NAMES = {"prompt": "input", "max_tokens": "input"}

Input = str | Annotated[list[str | int | list[int]], Meta(description="Texts, tokens, or lists of tokens.")]


class EmbeddingRequest(Struct, frozen=True, kw_only=True):
    model: str
    input: Input
    encoding_format: (
        Annotated[Literal["float", "base64"], Meta(description="base64 is of little-endian float32.")] | None
    ) = None
    user: IgnoredText | None = None


class Embedding(Struct, frozen=True, kw_only=True):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class EmbeddingsEndpoint:
    """The ASGI app behind it."""

    def __init__(self, inference: Inference, *, lenient: bool) -> None:
        self._inference = inference
        self._lenient = lenient

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = _parse(await Request(scope, receive).body(), lenient=self._lenient)
        pooling = self._inference.model(given.model).pooling
        requests = [embedding_request(prompt, given.model, pooling) for prompt in prompts_of(given.input, "input")]
        vectors = Vectors(len(requests), given.encoding_format or "float", send)
        await answer(self._inference, requests, vectors, scope, receive, names=NAMES, at_once=AT_ONCE)


class Vectors:
    """Collects what every input comes to, then answers with one document."""

    def __init__(self, count: int, encoding: Literal["float", "base64"], send: Send) -> None:
        self._finished: list[Finished | None] = [None] * count
        self._encoding = encoding
        self._send = send
        self._started: Started | None = None

    async def take(self, index: int, event: Event) -> None:
        match event:
            case Started():
                self._started = self._started or event
            case Finished():
                self._finished[index] = event

    async def finish(self, scope: Scope, receive: Receive) -> None:
        assert self._started is not None, "an answer ended without Started"
        finals = [final for final in self._finished if final is not None]
        num_tokens = sum(final.usage.prompt_tokens for final in finals)
        document = EmbeddingList(
            data=[Embedding(index=i, embedding=self._encoded(final.vector)) for i, final in enumerate(finals)],
            model=self._started.model,
            usage=EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
        )
        headers = {"x-request-id": self._started.request_id}
        body = msgspec.json.encode(document)
        await Response(body, headers=headers, media_type="application/json")(scope, receive, self._send)

    def _encoded(self, vector: bytes) -> list[float] | str:
        scaled = unit(vector)
        return base64.b64encode(scaled).decode() if self._encoding == "base64" else floats(scaled).tolist()


def _parse(body: bytes, *, lenient: bool) -> EmbeddingRequest:
    fields = supported(decode_body(body), EmbeddingRequest, OFF, lenient=lenient)
    if isinstance(given := fields.get("input"), list):
        check_count(given, MAX_PROMPT_IDS if isinstance(given[0] if given else 0, int) else MAX_INPUTS, "input")
    return convert(fields, EmbeddingRequest)
