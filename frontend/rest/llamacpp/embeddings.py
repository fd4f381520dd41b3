"""POST /embedding and /embeddings: texts, or tokens, to vectors, as llama.cpp's server answers them."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from engine.errors import InvalidRequest
from frontend.api import Inference
from frontend.checks import MAX_PROMPT_IDS, check_count
from frontend.embedding import floats, unit
from frontend.events import Finished
from frontend.fields import Off, UnsupportedParameter, convert, decode_body, supported
from frontend.rest.middleware import CALLER
from frontend.rest.openai.parse import prompts_of
from frontend.rest.vectors import MAX_INPUTS, send_vectors

OFF: Off = {"image_data": ([],)}
EUCLIDEAN, AS_IT_IS = 2, -1

Content = str | Annotated[list[str | int | list[int]], Meta(description="Texts, tokens, or lists of tokens.")]


class LlamaEmbeddingRequest(Struct, frozen=True, kw_only=True):
    content: Content | None = None
    input: Annotated[Content | None, Meta(description="The same as content.")] = None
    model: str | None = None
    embd_normalize: Annotated[int, Meta(description="2: unit length. -1: as it is. There is nothing else.")] = EUCLIDEAN


class LlamaEmbedding(Struct, frozen=True, kw_only=True):
    index: int
    embedding: list[list[float]]
    """One vector: of all tokens together."""


class EmbeddingEndpoint:
    """The ASGI app behind them."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name, content, normalize = _parse(await Request(scope, receive).body())
        model, prompts = self._inference.model(None, scope[CALLER]), prompts_of(content, name)
        document = partial(_document, normalize)
        names = {"prompt": name, "max_tokens": name}
        await send_vectors(self._inference, model, prompts, document, scope, receive, send, names=names)


def _parse(body: bytes) -> tuple[str, str | list[str | int | list[int]], bool]:
    """What holds the texts is called, the texts, and whether vectors shall have length 1."""
    fields = supported(decode_body(body), LlamaEmbeddingRequest, OFF)
    for name in ("content", "input"):
        if isinstance(many := fields.get(name), list):
            check_count(many, MAX_PROMPT_IDS if isinstance(many[0] if many else 0, int) else MAX_INPUTS, name)
    given = convert(fields, LlamaEmbeddingRequest)
    if given.embd_normalize not in (EUCLIDEAN, AS_IT_IS):
        message = f"embd_normalize is {EUCLIDEAN} or {AS_IT_IS} on this server, not {given.embd_normalize}"
        raise UnsupportedParameter(message, field="embd_normalize")
    if (given.content is None) == (given.input is None):
        raise InvalidRequest('"input" or "content" must be provided, and one of them only', field="content")
    name, content = ("input", given.input or "") if given.content is None else ("content", given.content)
    return name, content, given.embd_normalize == EUCLIDEAN


def _document(normalize: bool, finals: Sequence[Finished]) -> list[LlamaEmbedding]:
    vectors = [floats(final.vector) for final in finals]
    scaled = map(unit, vectors) if normalize else vectors
    return [LlamaEmbedding(index=i, embedding=[vector.tolist()]) for i, vector in enumerate(scaled)]
