"""HTTP/1.1 as uvicorn reads it, with three things of ours: what stands before a body has a limit, a client that does
not send its request to an end, or does not read its answer, is not waited for, and who is refused there is told so in
the words of whose port it is. Knows bytes and time. Does not know the app.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from frontend.rest.dialect import Errors

MAX_HEAD_BYTES = 64 << 10
"""Of the request line and all headers. uvicorn itself keeps whatever comes."""
ErrorsAt = Callable[[tuple[str, int | None] | None], Errors]
"""Takes an address of this machine, where it is known."""
REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}
REQUEST_S = 60.0
"""What a request may take to come, from the connection's first moment or the request's first byte on; and longer only
as long as it comes at `MIN_BYTES_PER_S`, all in all."""
MIN_BYTES_PER_S = 1000
READ_S = 300.0
"""A client that takes nothing of its answer for so long is gone, though its connection may be there."""


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
    _coming = False
    """Whether a request is expected, or has begun to come, and is not complete."""
    _coming_since_s = 0.0
    _come_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    """Looks whether it comes; where none is expected any more it finds that out by itself, which is cheaper."""
    _unread: asyncio.TimerHandle | None = None
    _cycle_is_newest = False
    """Whether `cycle` is of the request that came, or comes, last."""

    def __init__(self, *arguments: Any, errors_at: ErrorsAt, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._errors_at = errors_at

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(READ_S, self._look_unread, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        if self._refused:  # the connection is about to close
            return
        self._come_bytes += len(data)
        was_in_head, num_heads = self._in_head, self._num_heads
        super().data_received(data)
        if was_in_head and self._in_head and num_heads == self._num_heads:  # all of `data` is part of one head
            self._unread_bytes += len(data)
            if self._unread_bytes > MAX_HEAD_BYTES and not self._refused:
                self._refuse(431, _too_large())

    def _look_unread(self, before_bytes: int) -> None:
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_bytes < before_bytes:
            self._unread = self.loop.call_later(READ_S, self._look_unread, unread_bytes)
        else:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._cycle_is_newest = False
        if not self._coming:
            self._expect()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._unread_bytes = False, 0
        self._num_heads += 1
        if self._head_is_too_large():
            raise HeadTooLarge
        super().on_headers_complete()
        self._cycle_is_newest = True

    def on_message_complete(self) -> None:
        self._in_head, self._coming = True, False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what its parser does not take, our `HeadTooLarge` included."""
        # The parser hides why a callback of ours ended it.
        if self._head_is_too_large():
            self._refuse(431, _too_large())
        else:
            self._refuse(400, "this is not an HTTP request")

    def _expect(self) -> None:
        self._coming, self._coming_since_s, self._come_bytes = True, self.loop.time(), 0
        if self._timer is None:
            self._timer = self.loop.call_later(REQUEST_S, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._coming or self.transport.is_closing():
            return
        if self.flow.read_paused:  # by us: what came before is not done
            self._expect()
            return
        left_s = self._coming_since_s + REQUEST_S + self._come_bytes / MIN_BYTES_PER_S - self.loop.time()
        if left_s > 0:
            self._timer = self.loop.call_later(left_s, self._look)
        elif self._num_heads or self._unread_bytes or self._come_bytes:
            self._refuse(408, "the request did not come to its end in time")
        else:  # nothing was asked
            self.transport.close()

    def _head_is_too_large(self) -> bool:
        headers = self.headers or ()  # of which there are none before a request's first byte
        return len(self.url or b"") + sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES

    def _refuse(self, status: int, message: str) -> None:
        self._refused = True
        cycle = self.cycle
        if cycle is not None and cycle.response_started and (self._cycle_is_newest or not cycle.response_complete):
            self.transport.close()  # it has its answer, or another's would be cut in two
            return
        body = self._errors_at(self.server).body_of(HTTPException(status, message))
        head = (
            b"HTTP/1.1 %d %s\r\n" % (status, REASONS[status]),
            b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body),
        )
        self.transport.write(b"".join((*head, body)))
        self.transport.close()


def _too_large() -> str:
    return f"the request line and headers are larger than {MAX_HEAD_BYTES} bytes"
