import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.load.sse import parse_response, read_stream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
TOKEN = b'data: {"choices": [{"text": "a"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 3}}\n\n'
DONE = b"data: [DONE]\n\n"


def plain(*events: bytes) -> list[bytes]:
    return [HEAD + b"connection: close\r\n\r\n", *events]


def chunked(*events: bytes) -> list[bytes]:
    framed = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    return [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *framed, b"0\r\n\r\n"]


def timed(pieces: Sequence[bytes]) -> list[tuple[float, bytes]]:
    """Piece i arrives at second i."""
    return [(float(at), piece) for at, piece in enumerate(pieces)]


@pytest.mark.parametrize("framing", [plain, chunked])
def test_tokens_have_the_time_of_the_piece_that_ends_their_line(framing: Callable[..., list[bytes]]) -> None:
    reply = read_stream(timed(framing(TOKEN, b": ping\n\n", TOKEN, USAGE, DONE)))
    assert (reply.chunks_s, reply.prompt_tokens, reply.output_tokens, reply.error) == ((1.0, 3.0), 4, 3, None)


@given(data=st.data(), is_chunked=st.booleans())
def test_a_token_is_never_timed_before_its_line_has_come_however_the_bytes_are_cut(
    data: st.DataObject, is_chunked: bool
) -> None:
    wire = b"".join((chunked if is_chunked else plain)(TOKEN, TOKEN, TOKEN, USAGE, DONE))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=12)))
    bounds = [0, *cuts, len(wire)]
    reply = read_stream(timed([wire[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]))
    line = TOKEN.strip()
    ends, at = [], 0
    for _ in range(3):
        at = wire.index(line, at) + len(line)  # the offset of the line's own break, the first byte that ends it
        ends.append(at)
    assert reply.chunks_s == tuple(float(sum(cut <= end for cut in cuts)) for end in ends)
    assert (reply.output_tokens, reply.error) == (3, None)


@given(st.integers(0, len(b"".join(chunked(TOKEN, TOKEN, USAGE, DONE)))))
def test_every_beginning_of_a_stream_is_a_failure_until_its_done(size: int) -> None:
    wire = b"".join(chunked(TOKEN, TOKEN, USAGE, DONE))
    reply = read_stream([(0.0, wire[:size])])
    if b"[DONE]\n" in wire[:size]:
        assert reply.error is None
    elif b"\r\n\r\n" not in wire[:size]:
        assert reply.error == "no response"
    else:
        assert reply.error == "stream cut short"
    assert len(reply.chunks_s) == wire[:size].count(b"}]}\n")


def chat(delta: str, more: str = "") -> bytes:
    return b'data: {"choices": [{"delta": {%s}%s}]}\n\n' % (delta.encode(), more.encode())


def test_neither_the_chunk_of_the_role_nor_a_closing_one_without_text_is_a_token() -> None:
    opening, closing = chat('"role": "assistant", "content": ""'), chat("", ', "finish_reason": "stop"')
    word, partial = chat('"content": "a"'), chat('"content": ""')
    reply = read_stream(timed(plain(opening, word, partial, word, closing, USAGE, DONE)))
    assert reply.chunks_s == (2.0, 3.0, 4.0)
    last_token_is_silent = read_stream(timed(plain(opening, word, word, closing, USAGE, DONE)))
    assert last_token_is_silent.chunks_s == (2.0, 3.0, 4.0), "the usage counts three"
    without_usage = read_stream(timed(plain(opening, word, closing, DONE)))
    assert (without_usage.chunks_s, without_usage.output_tokens) == ((2.0,), None)


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([DONE], "no tokens"),
        ([TOKEN, b"data: {oops\n\n", DONE], "malformed event"),
        ([TOKEN, b'data: {"error": {"message": "worker lost"}}\n\n', DONE], "error event: .*worker lost"),
    ],
)
def test_streams_that_end_otherwise_are_failures(events: list[bytes], error: str) -> None:
    reply = read_stream(timed(plain(*events)))
    assert reply.error is not None
    assert re.match(error, reply.error)


def test_a_refusal_has_its_status_and_its_body() -> None:
    wire = b'HTTP/1.1 429 Too Many Requests\r\ncontent-length: 15\r\n\r\n{"error": "no"}'
    assert read_stream([(0.0, wire)]).error == "HTTP 429"
    assert parse_response(wire).body == b'{"error": "no"}'
    assert parse_response(b"garbage\r\n\r\n").status is None
