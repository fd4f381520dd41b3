"""POST /api/embed: texts to vectors of unit length; and /api/embeddings, which came before: one text, and no length."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from engine.errors import InvalidRequest
from frontend.api import Inference, ServedModel
from frontend.checks import check_count
from frontend.embedding import floats, unit
from frontend.events import Finished
from frontend.fields import Off, convert, decode_body, supported
from frontend.request import TokenPrompt
from frontend.rest.middleware import CALLER
from frontend.rest.ollama.models import served
from frontend.rest.vectors import MAX_INPUTS, Document, send_vectors

EMBED_OFF: Off = {"dimensions": (0,), "options": ({},)}
EMBEDDINGS_OFF: Off = {"options": ({},)}
KeepAlive = Annotated[str | float | None, Meta(description="Accepted; the model stays.")]


class OllamaEmbedRequest(Struct, frozen=True, kw_only=True):
    model: str = ""
    input: Annotated[str | list[str], Meta(description="Without any, nothing is made of it.")] = []
    truncate: Annotated[bool, Meta(description="Cut what is longer than the context; false: refuse it.")] = True
    keep_alive: KeepAlive = None


class OllamaEmbedResponse(Struct, frozen=True, kw_only=True):
    """Durations in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int = 0
    prompt_eval_count: int


class OllamaEmbeddingsRequest(Struct, frozen=True, kw_only=True):
    model: str = ""
    prompt: str = ""
    keep_alive: KeepAlive = None


class OllamaEmbeddingsResponse(Struct, frozen=True, kw_only=True):
    embedding: list[float]


class EmbedEndpoint:
    """The ASGI app behind /api/embed."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun_ns = time.monotonic_ns()
        fields = supported(decode_body(await Request(scope, receive).body()), OllamaEmbedRequest, EMBED_OFF)
        if isinstance(many := fields.get("input"), list):
            check_count(many, MAX_INPUTS, "input")
        given = convert(fields, OllamaEmbedRequest)
        texts = [given.input] if isinstance(given.input, str) else given.input
        document = partial(_embedded, given.model, begun_ns)
        to = scope, receive, send
        await _send(self._inference, given.model, texts, truncate=given.truncate, document=document, to=to)


class EmbeddingsEndpoint:
    """The ASGI app behind /api/embeddings."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = supported(decode_body(await Request(scope, receive).body()), OllamaEmbeddingsRequest, EMBEDDINGS_OFF)
        given = convert(fields, OllamaEmbeddingsRequest)
        to = scope, receive, send
        await _send(self._inference, given.model, [given.prompt], truncate=True, document=_first, to=to)


async def _send(
    inference: Inference,
    asked: str,
    texts: Sequence[str],
    *,
    truncate: bool,
    document: Document,
    to: tuple[Scope, Receive, Send],
) -> None:
    model = served(inference, to[0][CALLER], asked)
    if not texts or not all(texts):
        raise InvalidRequest("there is no text to make a vector of", field="input")
    prompts = [await _prompt(inference, model, text) if truncate else text for text in texts]
    await send_vectors(inference, model, prompts, document, *to, names={"prompt": "input", "max_tokens": "input"})


async def _prompt(inference: Inference, model: ServedModel, text: str) -> TokenPrompt:
    """As much of the beginning as the context has room for."""
    ids = await asyncio.to_thread(inference.tokenize, model.name, text)
    return TokenPrompt(tuple(ids[: model.max_context - 1]))


def _embedded(model: str, begun_ns: int, finals: Sequence[Finished]) -> OllamaEmbedResponse:
    return OllamaEmbedResponse(
        model=model,
        embeddings=[unit(floats(final.vector)).tolist() for final in finals],
        total_duration=time.monotonic_ns() - begun_ns,
        prompt_eval_count=sum(final.usage.prompt_tokens for final in finals),
    )


def _first(finals: Sequence[Finished]) -> OllamaEmbeddingsResponse:
    return OllamaEmbeddingsResponse(embedding=floats(finals[0].vector).tolist())
