"""Answers that come whole, compressed for clients that take gzip. Plain ASGI.

Streams pass as they are: their parts are small, and nobody shall wait for a buffer to fill. Does not know endpoints.
"""

import asyncio
import gzip
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIN_BYTES = 1_024
"""Smaller ones are not worth it."""
OFF_LOOP_BYTES = 65_536
"""Larger ones are compressed on a thread, so that they do not hold up everybody's tokens."""
LEVEL = 1
"""Text is nearly as small as at the others, in a third of the time."""
STREAMED = ("text/event-stream", "application/x-ndjson")

_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q\s*=\s*(?P<weight>\d(?:\.\d{0,3})?)\s*)?(?:,|$)", re.IGNORECASE)


class Compression:
    """Compresses what one message holds."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not takes_gzip(Headers(scope=scope).get("accept-encoding", "")):
            await self._app(scope, receive, send)
            return
        held: Message | None = None
        """The headers of a response whose body is still to be seen."""

        async def send_on(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and _may_be_whole(message):
                held = message
                return
            if held is not None:
                start, held = held, None
                if not message.get("more_body", False):
                    message = await _compressed(start, message)
                await send(start)
            await send(message)

        await self._app(scope, receive, send_on)


def takes_gzip(accept_encoding: str) -> bool:
    found = _GZIP.search(accept_encoding)
    return found is not None and float(found["weight"] or 1) > 0


def _may_be_whole(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return "content-encoding" not in headers and not headers.get("content-type", "").startswith(STREAMED)


async def _compressed(start: Message, message: Message) -> Message:
    body = message.get("body", b"")
    headers = MutableHeaders(scope=start)
    headers.add_vary_header("Accept-Encoding")
    if len(body) < MIN_BYTES:
        return message
    if len(body) > OFF_LOOP_BYTES:
        packed = await asyncio.to_thread(gzip.compress, body, LEVEL)
    else:
        packed = gzip.compress(body, LEVEL)
    headers["Content-Encoding"] = "gzip"
    headers["Content-Length"] = str(len(packed))
    return {**message, "body": packed}
