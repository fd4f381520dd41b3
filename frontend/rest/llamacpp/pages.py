"""What clients of llama.cpp's server ask of it besides answers: its properties, its slots, its adapters, a template.

What it does not do is refused in the words of this dialect. Does not know how answers are generated.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import InvalidRequest, Unavailable, Unsupported
from frontend.api import Inference, ServedModel
from frontend.fields import decode_body
from frontend.request import Chat
from frontend.rest.llamacpp.answer_types import (
    LlamaDefaults,
    LlamaModalities,
    LlamaProps,
    LlamaRendered,
    LlamaSlot,
    LlamaSuccess,
)
from frontend.rest.llamacpp.errors import LlamaErrors
from frontend.rest.llamacpp.settings import default_settings
from frontend.rest.middleware import CALLER
from frontend.rest.openai.parse import parse_chat
from frontend.rest.openapi import tandem_version

Page = Callable[[Request], Awaitable[Response]]


class Pages:
    """Endpoints of one server."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def props(self, request: Request) -> Response:
        model = self._asked(request)
        defaults = LlamaDefaults(params=default_settings(), n_ctx=model.max_context)
        return _json(
            LlamaProps(
                default_generation_settings=defaults,
                total_slots=len(self._slots(model)),
                model_alias=model.name,
                model_path=model.name,
                modalities=LlamaModalities(),
                chat_template=model.chat_template,
                bos_token=model.bos_token,
                eos_token=model.eos_token,
                build_info=f"tandem-{tandem_version()}",
            )
        )

    async def slots(self, request: Request) -> Response:
        slots = self._slots(self._asked(request))
        if request.query_params.get("fail_on_no_slot") and all(slot.is_processing for slot in slots):
            raise Unavailable("no slot is idle")
        return _json(slots)

    async def adapters(self, request: Request) -> Response:
        return _json([])

    async def set_adapters(self, request: Request) -> Response:
        try:
            adapters = msgspec.json.decode(await request.body())
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"the request body is not valid JSON: {error}") from error
        if not isinstance(adapters, list):
            raise InvalidRequest("the request body must be a JSON array")
        if adapters:
            raise InvalidRequest("this server has no LoRA adapters")
        return _json(LlamaSuccess())

    async def apply_template(self, request: Request) -> Response:
        chat = parse_chat(with_model(await request.body())).generations[0]
        assert isinstance(chat.prompt, Chat)
        model = self._inference.model(chat.model, request.scope[CALLER]).name
        return _json(LlamaRendered(await asyncio.to_thread(self._inference.render, model, chat.prompt)))

    def _asked(self, request: Request) -> ServedModel:
        """The one that `?model=` names, as llama.cpp's router takes it; else the default."""
        return self._inference.model(request.query_params.get("model"), request.scope[CALLER])

    def _slots(self, model: ServedModel) -> Sequence[LlamaSlot]:
        """Of the model's decode workers that take requests, those that are busy first."""
        busy = [
            number < worker.running
            for worker in self._inference.workers()
            if worker.role == "decode" and worker.ready and worker.model == model.name
            for number in range(worker.max_sequences)
        ]
        n_ctx = model.max_context
        return [LlamaSlot(id=number, n_ctx=n_ctx, is_processing=is_busy) for number, is_busy in enumerate(busy)]


def refusing(message: str) -> Page:
    """An endpoint of llama.cpp's that this server does not have."""
    response_of = LlamaErrors().response_of

    async def refuse(request: Request) -> Response:
        return response_of(Unsupported(message))

    return refuse


def with_model(body: bytes) -> bytes:
    """`body` as OpenAI's parsers want it: with the name of a model, which here may be left out."""
    fields = decode_body(body)
    try:
        return body if fields.get("model") else msgspec.json.encode({**fields, "model": ""})
    except RecursionError:
        raise InvalidRequest("the request body is nested too deeply") from None


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
