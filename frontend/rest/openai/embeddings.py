"""POST /v1/embeddings: texts, or tokens, to vectors of unit length."""

import base64
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from frontend.api import Inference
from frontend.checks import MAX_PROMPT_IDS, check_count
from frontend.embedding import floats, packed, unit
from frontend.events import Finished
from frontend.fields import Off, convert, decode_body, supported
from frontend.rest.middleware import CALLER
from frontend.rest.openai.parse import prompts_of
from frontend.rest.openai.request_types import IgnoredText
from frontend.rest.vectors import MAX_INPUTS, send_vectors

OFF: Off = {"dimensions": (), "input_type": (), "truncate_prompt_tokens": (), "priority": (0,)}
NAMES = {"prompt": "input", "max_tokens": "input"}

Encoding = Annotated[Literal["float", "base64"], Meta(description="base64 is of little-endian float32.")]


class EmbeddingRequest(Struct, frozen=True, kw_only=True):
    model: str
    input: str | Annotated[list[str | int | list[int]], Meta(description="Texts, tokens, or lists of tokens.")]
    encoding_format: Encoding | None = None
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
        model, prompts = self._inference.model(given.model, scope[CALLER]), prompts_of(given.input, "input")
        document = partial(_document, model.name, given.encoding_format or "float")
        await send_vectors(self._inference, model, prompts, document, scope, receive, send, names=NAMES)


def _parse(body: bytes, *, lenient: bool) -> EmbeddingRequest:
    fields = supported(decode_body(body), EmbeddingRequest, OFF, lenient=lenient)
    if isinstance(given := fields.get("input"), list):
        check_count(given, MAX_PROMPT_IDS if isinstance(given[0] if given else 0, int) else MAX_INPUTS, "input")
    return convert(fields, EmbeddingRequest)


def _document(model: str, encoding: Literal["float", "base64"], finals: Sequence[Finished]) -> EmbeddingList:
    num_tokens = sum(final.usage.prompt_tokens for final in finals)
    return EmbeddingList(
        data=[Embedding(index=i, embedding=_encoded(final.vector, encoding)) for i, final in enumerate(finals)],
        model=model,
        usage=EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
    )


def _encoded(vector: bytes, encoding: Literal["float", "base64"]) -> list[float] | str:
    scaled = unit(floats(vector))
    return base64.b64encode(packed(scaled)).decode() if encoding == "base64" else scaled.tolist()
