import json

from cli.chaos.asks import Ask, Dialect, Kind
from cli.chaos.hear import read_grpc, read_rest, request_of
from protos import generate_pb2 as pb

HEAD = b"HTTP/1.1 200 OK\r\nX-Request-Id: req-1\r\n\r\n"


def stream(*events: object) -> bytes:
    return HEAD + b"".join(b"data: %s\n\n" % (e if isinstance(e, bytes) else json.dumps(e).encode()) for e in events)


def piece(text: str, finish: str | None = None, **more: object) -> dict[str, object]:
    return {"choices": [{"text": text, "finish_reason": finish, **more}]}


USAGE = {"choices": [], "usage": {"completion_tokens": 2}}


def test_a_streamed_completion() -> None:
    logprobs = {"token_logprobs": [-0.5], "tokens": ["a"]}
    wire = stream(piece("a", logprobs=logprobs), piece("b", "length", logprobs=logprobs), USAGE, b"[DONE]")
    reply = read_rest(wire, stream=True)
    assert reply.is_whole
    assert reply.error is None
    heard = reply.heard
    assert (heard.text, heard.finish, heard.num_tokens, heard.request_id) == ("ab", "length", 2, "req-1")
    assert heard.logprobs == (-0.5, -0.5)


def test_a_streamed_chat() -> None:
    opening = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    word = {"choices": [{"delta": {"content": "hi"}, "logprobs": {"content": [{"token": "hi", "logprob": -1.5}]}}]}
    reply = read_rest(stream(opening, word, USAGE, b"[DONE]"), stream=True)
    assert (reply.heard.text, reply.heard.logprobs) == ("hi", (-1.5,))


def test_a_whole_answer() -> None:
    body = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}
    reply = read_rest(HEAD + json.dumps(body).encode(), stream=False)
    assert reply.is_whole
    assert (reply.heard.text, reply.heard.finish, reply.heard.num_tokens) == ("hi", "stop", 1)


def test_a_stream_without_its_end_is_not_whole() -> None:
    wire = stream(piece("a"), piece("b", "stop"), USAGE)
    reply = read_rest(wire, stream=True)
    assert not reply.is_whole
    assert reply.heard.text == "ab"
    assert read_rest(wire[:-40], stream=True).heard.num_tokens is None


def test_half_a_whole_answer_is_nothing_yet() -> None:
    reply = read_rest(HEAD + b'{"choices": [', stream=False)
    assert (reply.is_whole, reply.error, reply.heard.text) == (False, None, "")


def test_nothing_is_nothing() -> None:
    reply = read_rest(b"", stream=True)
    assert (reply.status, reply.is_whole, reply.heard.text) == (None, False, "")


def test_a_refusal_and_an_error_in_a_stream_are_told() -> None:
    error = {"error": {"message": "no decode worker serves now", "type": "server_error"}}
    refused = b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + json.dumps(error).encode()
    assert (read_rest(refused, stream=True).status, read_rest(refused, stream=True).error) == (
        503,
        "no decode worker serves now",
    )
    reply = read_rest(stream(piece("a"), error), stream=True)
    assert (reply.status, reply.error, reply.heard.text) == (200, "no decode worker serves now", "a")


def messages(*first_indices: int) -> list[pb.GenerateResponse]:
    deltas = [
        pb.GenerateResponse(delta=pb.Delta(text="ab", token_ids=[index, index + 1], first_index=index))
        for index in first_indices
    ]
    usage = pb.Usage(completion_tokens=2 * len(deltas))
    return [
        pb.GenerateResponse(started=pb.Started(request_id="req-2")),
        *deltas,
        pb.GenerateResponse(finished=pb.Finished(reason=pb.FINISH_REASON_STOP, usage=usage)),
    ]


def test_a_call() -> None:
    heard = read_grpc(messages(0, 2))
    assert (heard.text, heard.tokens, heard.gap) == ("abab", (0, 1, 2, 3), None)
    assert (heard.num_tokens, heard.finish, heard.request_id) == (4, "FINISH_REASON_STOP", "req-2")
    assert read_grpc(messages(0, 2)[:2]).finish is None


def test_a_gap_and_a_repeat_are_told() -> None:
    assert read_grpc(messages(0, 4)).gap == "a message begins at token 4, after 2 tokens"
    assert read_grpc(messages(0, 0)).gap == "a message begins at token 0, after 2 tokens"


def test_an_ask_as_a_message() -> None:
    fields: dict[str, object] = {"temperature": 0.5, "seed": 7, "max_tokens": 9, "stop": ["x"], "logprobs": 2}
    ask = Ask(number=0, kind=Kind.STOP, dialect=Dialect.GRPC, stream=True, prompt=(3, 4), fields=fields)
    request = request_of(ask, "m")
    assert list(request.token_ids.ids) == [3, 4]
    assert (request.sampling.temperature, request.sampling.seed, request.output.logprobs) == (0.5, 7, 2)
    assert (request.stopping.max_tokens, list(request.stopping.stop)) == (9, ["x"])
    assert not request.sampling.HasField("top_p")
