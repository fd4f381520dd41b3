"""The paths below /v1/responses: who may do what with which response. Does not know how one is made."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import msgspec
from msgspec import Struct, structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from engine.errors import InvalidRequest, TandemError
from frontend.api import Inference
from frontend.fields import UnknownParameter, UnsupportedParameter
from frontend.rest.answers import answer, asked_by
from frontend.rest.middleware import CALLER
from frontend.rest.openai.responses.answer import Keep, StreamedResponse, WholeResponse
from frontend.rest.openai.responses.answer_types import (
    DeletedResponse,
    InputTokenCount,
    ResponseDocument,
    ResponseItemList,
)
from frontend.rest.openai.responses.background import Background
from frontend.rest.openai.responses.items import (
    InputText,
    Item,
    OutputText,
    ResponseFunctionCall,
    ResponseFunctionCallOutput,
    ResponseMessage,
    ResponseReasoning,
)
from frontend.rest.openai.responses.parse import NAMES, ResponseAsk, parse_count, parse_response
from frontend.rest.openai.responses.store import CallersStore, Kept, Store

Page = Callable[[Request], Awaitable[Response]]
PATH = "/v1/responses"
MAX_ITEMS = 100
"""Of one page of a list."""


def response_routes(inference: Inference, store: Store, *, lenient: bool) -> tuple[Route, ...]:
    background = Background(inference)
    pages = Responses(inference, store, background, lenient=lenient)
    return (
        Route(PATH, Creation(inference, store, background, lenient=lenient), methods=["POST"]),
        Route(f"{PATH}/input_tokens", pages.count, methods=["POST"]),
        Route(f"{PATH}/{{id}}", pages.get, methods=["GET"]),
        Route(f"{PATH}/{{id}}", pages.delete, methods=["DELETE"]),
        Route(f"{PATH}/{{id}}/cancel", pages.cancel, methods=["POST"]),
        Route(f"{PATH}/{{id}}/input_items", pages.input_items, methods=["GET"]),
    )


class Creation:
    """The ASGI app behind POST of /v1/responses."""

    def __init__(self, inference: Inference, store: Store, background: Background, *, lenient: bool) -> None:
        self._inference = inference
        self._store = store
        self._background = background
        self._lenient = lenient

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        store = self._store.of(scope[CALLER])
        ask = parse_response(body, store, lenient=self._lenient)
        items = tuple(map(_listed, ask.input))

        def keep(document: ResponseDocument, abandon: Callable[[], None] | None = None) -> None:
            if document.store:
                store.keep(_kept(ask, items, document, abandon))

        if ask.given.background:
            await self._begin(ask, keep, scope, receive, send)
            return
        answers: StreamedResponse | WholeResponse
        answers = StreamedResponse(ask, keep, send) if ask.given.stream else WholeResponse(ask, keep, send)
        try:
            await answer(self._inference, [ask.generation], answers, scope, receive, names=NAMES)
        except TandemError as error:
            if not await answers.fail(error):
                raise

    async def _begin(self, ask: ResponseAsk, keep: Keep, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            document = await self._background.begin(replace(ask, generation=asked_by(scope, ask.generation)), keep)
        except TandemError as error:
            error.field = NAMES.get(error.field or "", error.field)
            raise
        await _json(document)(scope, receive, send)


class Responses:
    """What can be done with responses that are kept, each by whoever asked for it; and what needs none."""

    def __init__(self, inference: Inference, store: Store, background: Background, *, lenient: bool) -> None:
        self._inference = inference
        self._store = store
        self._background = background
        self._lenient = lenient

    async def get(self, request: Request) -> Response:
        kept = self._kept(request)
        _check_query(request, {"stream": "false", "include_obfuscation": "false"})
        return _json(kept.document)

    async def delete(self, request: Request) -> Response:
        response_id = self._kept(request).document.id
        self._of(request).drop(response_id)
        return _json(DeletedResponse(id=response_id))

    async def cancel(self, request: Request) -> Response:
        document = self._kept(request).document
        if not document.background:
            raise InvalidRequest("only a response that is made in the background can be cancelled; this one was not")
        await self._background.cancel(document.id)
        return _json(self._kept(request).document)

    async def input_items(self, request: Request) -> Response:
        kept = self._kept(request)
        _check_query(request, {}, ("limit", "order", "after"))
        return _json(_page(kept.input, request.query_params))

    async def count(self, request: Request) -> Response:
        model, chat = parse_count(await request.body(), self._of(request), lenient=self._lenient)
        name = self._inference.model(model, request.scope[CALLER]).name
        try:
            tokens = await asyncio.to_thread(self._inference.tokenize, name, chat)
        except TandemError as error:
            error.field = NAMES.get(error.field or "", error.field)
            raise
        return _json(InputTokenCount(input_tokens=len(tokens)))

    def _kept(self, request: Request) -> Kept:
        return self._of(request).get(request.path_params["id"])

    def _of(self, request: Request) -> CallersStore:
        return self._store.of(request.scope[CALLER])


def _kept(
    ask: ResponseAsk, items: tuple[Item, ...], document: ResponseDocument, abandon: Callable[[], None] | None
) -> Kept:
    before, num_bytes = ((), 0) if ask.before is None else (ask.before.context, ask.before.context_bytes)
    return Kept(
        document=document,
        input=items,
        context=(*before, *items, *document.output),
        context_bytes=num_bytes + len(_encode((items, document))),
        abandon=abandon,
    )


_PREFIXES: Mapping[type[Item], str] = MappingProxyType(
    {
        ResponseMessage: "msg",
        ResponseReasoning: "rs",
        ResponseFunctionCall: "fc",
        ResponseFunctionCallOutput: "fco",
    }
)
"""Of items' ids."""


def _listed(item: Item) -> Item:
    """As it is told to who asks later: with an id, a state, and parts where there was only a text."""
    given: dict[str, object] = {"status": item.status or "completed"}
    if item.id is None:
        given["id"] = f"{_PREFIXES[type(item)]}_{secrets.token_hex(12)}"
    if isinstance(item, ResponseMessage) and isinstance(item.content, str):
        part = OutputText(text=item.content) if item.role == "assistant" else InputText(text=item.content)
        given["content"] = [part]
    return structs.replace(item, **given)


def _page(items: Sequence[Item], query: Mapping[str, str]) -> ResponseItemList:
    given = query.get("limit", "20")
    limit = int(given) if given.isascii() and given.isdecimal() and len(given) < 4 else 0
    if not 1 <= limit <= MAX_ITEMS:
        raise InvalidRequest(f"limit must be between 1 and {MAX_ITEMS}, not {given[:20]!r}", field="limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order must be asc or desc, not {order[:20]!r}", field="order")
    ordered = list(items if order == "asc" else reversed(items))
    if (after := query.get("after")) is not None:
        ids = [item.id for item in ordered]
        if after not in ids:
            raise InvalidRequest(f"no item of this response has the id {after[:80]!r}", field="after")
        ordered = ordered[ids.index(after) + 1 :]
    page = ordered[:limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return ResponseItemList(data=page, first_id=first, last_id=last, has_more=len(ordered) > limit)


def _check_query(request: Request, off: Mapping[str, str], known: Sequence[str] = ()) -> None:
    """Raises for what is not `known` and is something else than what asks for nothing."""
    for name, value in request.query_params.items():
        if name in known or off.get(name) == value:
            continue
        if name in off or name in ("include", "include[]", "starting_after"):
            raise UnsupportedParameter(f"{name} is not supported by this server", field=name)
        raise UnknownParameter(f"unknown parameter: {name[:200]}", field=name)


_encode = msgspec.json.Encoder().encode


def _json(value: Struct) -> Response:
    return Response(_encode(value), media_type="application/json")
