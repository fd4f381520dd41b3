"""POST /invocations, the one path that SageMaker knows: what vLLM and TGI answer elsewhere, by what the body has.

messages   a chat completion      prompt   a completion      inputs   TGI's answer
"""

from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from frontend.api import Inference
from frontend.fields import decode_body, one_of
from frontend.rest.describe import also, any_of, events, post, ref
from frontend.rest.dialect import ERRORS, Errors, Json
from frontend.rest.openai import chat, completions
from frontend.rest.openai.answer import Endpoint as OpenAIEndpoint
from frontend.rest.openai.answer_types import ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk
from frontend.rest.openai.errors import OpenAIErrors
from frontend.rest.openai.request_types import ChatCompletionRequest, CompletionRequest
from frontend.rest.tgi.answer import Endpoint as TgiEndpoint
from frontend.rest.tgi.answer_types import TgiAnswer, TgiEvent
from frontend.rest.tgi.errors import TgiErrors
from frontend.rest.tgi.parse import ROOT
from frontend.rest.tgi.request_types import TgiCompatRequest

OPENAI = ("messages", "prompt")
"""What vLLM knows of it."""
ALL = (*OPENAI, "inputs")


class Invocations:
    """The ASGI app behind it."""

    def __init__(self, inference: Inference, *, lenient: bool, only: Sequence[str] = ALL) -> None:
        endpoints: Mapping[str, tuple[ASGIApp, Errors]] = {
            "messages": (OpenAIEndpoint(inference, chat.FORMAT, lenient=lenient), OpenAIErrors()),
            "prompt": (OpenAIEndpoint(inference, completions.FORMAT, lenient=lenient), OpenAIErrors()),
            "inputs": (TgiEndpoint(inference, ROOT), TgiErrors()),
        }
        self._endpoints = {name: endpoints[name] for name in only}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        endpoint, scope[ERRORS] = self._endpoints[one_of(decode_body(body), self._endpoints)]
        await endpoint(scope, _again(body, receive), send)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read, and then what `receive` gives."""
    unread = [body]

    async def receive_again() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return receive_again


def operation(*, only: Sequence[str] = ALL) -> Json:
    if "inputs" not in only:
        return {"post": _of_openai()}
    described = post(
        "Answer a conversation (messages) or continue a text (prompt, inputs)",
        any_of(ref(ChatCompletionRequest), ref(CompletionRequest), ref(TgiCompatRequest)),
        any_of(ref(ChatCompletion), ref(Completion), {"type": "array", "items": ref(TgiAnswer)})
        | events(*(kind.__name__ for kind in (ChatCompletionChunk, CompletionChunk, TgiEvent))),
        error="ErrorBody",
        description="As /v1/chat/completions, /v1/completions or TGI's / does.",
    )
    invalid = also(described, 422, "The request has inputs, and is malformed.", error="TgiError")
    return {"post": also(invalid, 424, "The request has inputs, and answering it failed.", error="TgiError")}


def _of_openai() -> Json:
    return post(
        "Answer a conversation (messages) or continue a text (prompt)",
        any_of(ref(ChatCompletionRequest), ref(CompletionRequest)),
        any_of(ref(ChatCompletion), ref(Completion))
        | events(*(kind.__name__ for kind in (ChatCompletionChunk, CompletionChunk))),
        error="ErrorBody",
        description="As /v1/chat/completions or /v1/completions does.",
    )
