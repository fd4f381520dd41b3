"""How inputs become vectors for one HTTP request, in any dialect: all of them run, then one document is sent."""

from collections.abc import Callable, Mapping, Sequence

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from frontend.api import Inference, ServedModel
from frontend.embedding import embedding_request
from frontend.events import Event, Finished, Started
from frontend.request import TokenPrompt
from frontend.rest.answers import answer

AT_ONCE = 16
"""Inputs of one request that are under way: the others' callers shall not wait for all of them."""
MAX_INPUTS = 2_048

Document = Callable[[Sequence[Finished]], object]
"""What the vectors of all inputs (`Finished.vector`) are in a dialect."""


async def send_vectors(
    inference: Inference,
    model: ServedModel,
    prompts: Sequence[str | TokenPrompt],
    document: Document,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    names: Mapping[str, str],
) -> None:
    """`receive` must have given the whole body; errors name their field by `names`. Raises TandemError."""
    requests = [embedding_request(prompt, model.name, model.pooling) for prompt in prompts]
    vectors = _Vectors(len(requests), document, send)
    await answer(inference, requests, vectors, scope, receive, names=names, at_once=AT_ONCE)


class _Vectors:
    """Collects what every input comes to."""

    def __init__(self, count: int, document: Document, send: Send) -> None:
        self._finished: list[Finished | None] = [None] * count
        self._document = document
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
        body = msgspec.json.encode(self._document([final for final in self._finished if final is not None]))
        headers = {"x-request-id": self._started.request_id}
        await Response(body, headers=headers, media_type="application/json")(scope, receive, self._send)
