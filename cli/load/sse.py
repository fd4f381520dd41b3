"""Bytes of an HTTP/1.1 answer with their arrival times → status, events, and the tokens' times. Pure.

While a stream runs, the client only notes what arrived when; everything here happens after its end.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import msgspec

from cli.load.measure import Reply

DONE = b"data: [DONE]\n"
"""JSON has no raw line break, so no text that a model writes contains this."""

Pieces = Sequence[tuple[float, bytes]]
"""What arrived, in order, each with its time in seconds."""


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: object = None


_decode = msgspec.json.Decoder(_Event).decode


@dataclass(frozen=True, slots=True)
class Response:
    status: int | None
    """None: the head is not complete."""
    body: bytes
    """Without the chunked framing; as much as there is."""
    segments: tuple[tuple[int, int], ...]
    """Where the body comes from: (offset in the body, offset in the bytes on the wire), ascending."""


def parse_response(wire: bytes) -> Response:
    """Take head and framing off what arrived, which may be only a beginning."""
    head, blank, rest = wire.partition(b"\r\n\r\n")
    if not blank:
        return Response(None, b"", ())
    try:
        status = int(head.split(b" ", 2)[1])
    except (IndexError, ValueError):
        return Response(None, b"", ())
    start = len(head) + len(blank)
    if b"transfer-encoding: chunked" not in head.lower():
        return Response(status, rest, ((0, start),))
    body, segments = bytearray(), []
    while (line_end := wire.find(b"\r\n", start)) >= 0:
        size = _chunk_size(wire[start:line_end])
        if not size:
            break
        segments.append((len(body), line_end + 2))
        body += wire[line_end + 2 : line_end + 2 + size]
        start = line_end + 2 + size + 2
    return Response(status, bytes(body), tuple(segments))


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        return 0


def events(pieces: Pieces) -> Iterator[tuple[float, bytes]]:
    """Each `data:` line with the time at which its end arrived; comments and other fields are left out."""
    response = parse_response(b"".join(piece for _, piece in pieces))
    ends = list(accumulate(len(piece) for _, piece in pieces))
    starts = [segment[0] for segment in response.segments]
    begin = 0
    while (line_end := response.body.find(b"\n", begin)) >= 0:
        if response.body.startswith(b"data:", begin):
            body_start, wire_start = response.segments[bisect_right(starts, line_end) - 1]
            arrived = bisect_right(ends, wire_start + line_end - body_start)
            yield pieces[arrived][0], response.body[begin + 5 : line_end].strip()
        begin = line_end + 1


def read_stream(pieces: Pieces) -> Reply:
    """What a streamed answer held, complete or not; `error` says why it is no success.

    A chunk counts as vLLM's benchmark counts it, one token event each, but for two kinds that carry no token: one that
    only names the role, and a closing one without text where the tokens of the usage are all accounted for.
    """
    status = parse_response(b"".join(piece for _, piece in pieces)).status
    if status != 200:
        return Reply((), error=f"HTTP {status}" if status else "no response")
    times: list[float] = []
    usage: _Usage | None = None
    is_done = closes_empty = False
    for at, payload in events(pieces):
        if payload == b"[DONE]":
            is_done = True
            break
        try:
            event = _decode(payload)
        except msgspec.DecodeError as error:
            return Reply(tuple(times), error=f"malformed event: {error}")
        if event.error is not None:
            return Reply(tuple(times), error=f"error event: {str(event.error)[:200]}")
        usage = event.usage or usage
        if event.choices and not _is_opening(choice := event.choices[0]):
            times.append(at)
            closes_empty = choice.finish_reason is not None and not _text(choice)
    if closes_empty and (usage is None or len(times) > usage.completion_tokens):
        times.pop()
    return Reply(
        tuple(times),
        prompt_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.completion_tokens if usage else None,
        error=None if is_done and times else "no tokens" if is_done else "stream cut short",
    )


def _text(choice: _Choice) -> str | None:
    if choice.delta is None:
        return choice.text
    return choice.delta.content or choice.delta.reasoning_content


def _is_opening(choice: _Choice) -> bool:
    """The chunk of a chat that tells the role, and has no text. Without a role, it is a token that is no text yet."""
    return choice.delta is not None and choice.delta.role is not None and not _text(choice)
