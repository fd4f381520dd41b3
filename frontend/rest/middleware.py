"""What every HTTP request passes on its way in and out, outermost first: errors and request ids, key, size.

Plain ASGI, so that a streamed chunk costs one call more and nothing is buffered. Does not know endpoints.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Container

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import TandemError, Unauthenticated, Unsupported
from frontend.callers import KeyRing, bearer_key
from frontend.request import new_request_id
from frontend.rest.dialect import Errors
from frontend.rest.errors import status_of

log = logging.getLogger(__name__)

CALLER = "tandem.caller"
"""Where a request's scope says who asks."""
REQUEST_ID = "tandem.request_id"
"""Where it has the id by which everybody else knows it: the log, the recorder."""
SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"


OWN_ID = "x-tandem-request-id"
"""Header of answers that have an id of their own besides the one that the request came with."""
PACKED = frozenset({"br", "compress", "deflate", "gzip", "x-gzip", "zstd"})
"""Encodings of a body that is no JSON as it comes."""
GIVEN_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)


class Outermost:
    """Gives every response an id, the request's if it came with one, and every exception the shape that `errors_of` a
    request has."""

    def __init__(self, app: ASGIApp, errors_of: Callable[[Scope], Errors]) -> None:
        self._app = app
        self._errors_of = errors_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = given_id(Headers(scope=scope))
        request_id = scope[REQUEST_ID] = new_request_id()
        sent: list[MutableHeaders] = []

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent.append(headers := MutableHeaders(scope=message))
                headers.setdefault("x-request-id", request_id)
                headers.setdefault("request-id", headers["x-request-id"])  # where Anthropic's clients look for it
                if given is not None:
                    headers[OWN_ID] = headers["x-request-id"]
                    headers["x-request-id"] = given
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except ClientDisconnect:
            pass  # nobody is left to tell
        except Exception as error:
            _note(error, request_id if given is None else f"{request_id} ({given})", scope["path"])
            if not sent:
                await self._errors_of(scope).response_of(error)(scope, receive, send_on)
            elif sent[0].get("content-type") in (SSE, NDJSON):
                part = self._errors_of(scope).part_of(error)
                await send({"type": "http.response.body", "body": part, "more_body": False})
            else:
                raise


def given_id(headers: Headers) -> str | None:
    """By which the caller, or a proxy before us, calls a request; None where that is nothing to put into a log."""
    name = headers.get("x-request-id", "")
    return name if GIVEN_ID.fullmatch(name) else None


def _note(error: Exception, ids: str, path: str) -> None:
    if not isinstance(error, TandemError | HTTPException):
        log.error("%s of %s failed", ids, path, exc_info=error)
    elif status_of(error) >= 500 and not isinstance(error, Unsupported):
        log.warning("%s of %s failed: %s", ids, path, error)


class Authentication:
    """Lets through who carries a key, and notes whose it is. Raises Unauthenticated.

    It is in Authorization, or else in x-api-key. Anybody may read what is `public`.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, public: Container[str]) -> None:
        self._app = app
        self._keys = keys
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not (scope["method"] in ("GET", "HEAD") and scope["path"] in self._public):
            authorization = _authorization(Headers(scope=scope))
            caller = self._keys.identify(authorization, "latin-1")
            if caller is None:
                wrong = "the API key is wrong" if authorization.partition(" ")[2] else "this server needs an API key"
                raise Unauthenticated(f"{wrong}: send the header Authorization: Bearer KEY, or x-api-key: KEY")
            scope[CALLER] = caller
        await self._app(scope, receive, send)


def _authorization(headers: Headers) -> str:
    """The header of that name; where it has no key (it may be a proxy's), what x-api-key comes to."""
    authorization, key = headers.get("authorization", ""), headers.get("x-api-key")
    return f"Bearer {key}" if key and not bearer_key(authorization) else authorization


class BodyLimit:
    """Stops reading a body at `max_bytes` and raises 413; raises 415 for one that would have to be unpacked.

    The connection stays open: the server drops what still comes, and a client that sends everything before it reads
    gets its answer instead of a reset.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding, announced = headers.get("content-encoding", "").lower(), headers.get("content-length", "")
        if encoding in PACKED:
            raise HTTPException(415, f"this server unpacks no bodies of requests: Content-Encoding is {encoding}")
        if announced.isdecimal() and int(announced[:20]) > self._max_bytes:
            raise self._too_large()
        await self._app(scope, self._counting(receive), send)

    def _counting(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        num_bytes = 0

        async def receive_counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                if num_bytes > self._max_bytes:
                    raise self._too_large()
            return message

        return receive_counted

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the request body is larger than {self._max_bytes} bytes")
