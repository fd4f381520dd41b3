"""HTTP/1.1 as uvicorn reads it, with two things of ours: what stands before a body has a limit, and who is refused
there is told so in the words of whose port it is. Knows bytes. Does not know the app.
"""

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from frontend.rest.dialect import Errors

MAX_HEAD_BYTES = 64 << 10
"""Of the request line and all headers. uvicorn itself keeps whatever comes."""
ErrorsAt = Callable[[tuple[str, int | None] | None], Errors]
"""Takes an address of this machine, where it is known."""
REASONS = {400: b"Bad Request", 431: b"Request Header Fields Too Large"}


class HeadTooLarge(Exception):
    """Ends the parsing of a request."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    _num_heads = 0
    """That came to their end."""
    _in_head = True
    _unread_bytes = 0
    """Of a head whose end has not come."""
    _refused = False

    def __init__(self, *arguments: Any, errors_at: ErrorsAt, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._errors_at = errors_at

    def data_received(self, data: bytes) -> None:
        if self._refused:  # the connection is about to close
            return
        was_in_head, num_heads = self._in_head, self._num_heads
        super().data_received(data)
        if was_in_head and self._in_head and num_heads == self._num_heads:  # all of `data` is part of one head
            self._unread_bytes += len(data)
            if self._unread_bytes > MAX_HEAD_BYTES and not self._refused:
                self._refuse(431, _too_large())

    def on_headers_complete(self) -> None:
        self._in_head, self._unread_bytes = False, 0
        self._num_heads += 1
        if self._head_is_too_large():
            raise HeadTooLarge
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what its parser does not take, our `HeadTooLarge` included."""
        # The parser hides why a callback of ours ended it.
        if self._head_is_too_large():
            self._refuse(431, _too_large())
        else:
            self._refuse(400, "this is not an HTTP request")

    def _head_is_too_large(self) -> bool:
        headers = self.headers or ()  # of which there are none before a request's first byte
        return len(self.url or b"") + sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES

    def _refuse(self, status: int, message: str) -> None:
        self._refused = True
        body = self._errors_at(self.server).body_of(HTTPException(status, message))
        head = (
            b"HTTP/1.1 %d %s\r\n" % (status, REASONS[status]),
            b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body),
        )
        self.transport.write(b"".join((*head, body)))
        self.transport.close()


def _too_large() -> str:
    return f"the request line and headers are larger than {MAX_HEAD_BYTES} bytes"
