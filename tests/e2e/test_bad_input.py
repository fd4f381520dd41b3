"""What a server cannot make sense of is refused in the words of the dialect, and the next request is served."""

import json
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import grpc
import grpc.aio
import httpx
import pytest
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status

from protos import generate_pb2 as pb
from protos import generate_pb2_grpc
from tests.e2e.clients import DEMO, GRPC_OPTIONS, PATIENCE_S, chat_request
from tests.e2e.server import Tandem

HUGE = 100 << 20
NAN = float("nan")
TOO_LONG = [5] * 5000
NOT_IN_THE_VOCABULARY = 1 << 20


# -- REST ------------------------------------------------------------------------------------------------------------


def completion(**fields: object) -> bytes:
    return json.dumps({"model": DEMO, "prompt": "Hello", "max_tokens": 4, **fields}).encode()


BAD_COMPLETIONS = {
    "malformed": (b'{"model": "tandem-demo", "prompt":', 400, None, None),
    "not an object": (b"[1, 2]", 400, None, None),
    "no body": (b"", 400, None, None),
    "invalid UTF-8": (b'{"model": "tandem-demo", "prompt": "\xff\xfe"}', 400, None, None),
    "wrong type": (completion(max_tokens="four"), 400, "max_tokens", None),
    "wrong type of a prompt": (completion(prompt={"text": "Hello"}), 400, "prompt", None),
    "empty prompt": (completion(prompt=""), 400, "prompt", None),
    "no tokens": (completion(prompt=[]), 400, "prompt", None),
    "too long a prompt": (completion(prompt=TOO_LONG), 400, "prompt", "context_length_exceeded"),
    "too long an answer": (completion(max_tokens=1 << 20), 400, "max_tokens", "context_length_exceeded"),
    "no such token": (completion(prompt=[5, NOT_IN_THE_VOCABULARY]), 400, "prompt", None),
    "negative token": (completion(prompt=[5, -1]), 400, "prompt", None),
    "huge token": (completion(prompt=[5, 1 << 70]), 400, "prompt", None),
    "unknown model": (completion(model="gpt-4"), 404, "model", "model_not_found"),
    "negative temperature": (completion(temperature=-0.1), 400, "temperature", None),
    "NaN": (completion(temperature=NAN), 400, None, None),
    "infinity": (completion().replace(b'"max_tokens": 4', b'"top_p": 1e999'), 400, None, None),
    "negative top_p": (completion(top_p=-1), 400, "top_p", None),
    "negative max_tokens": (completion(max_tokens=-4), 400, "max_tokens", None),
    "unknown parameter": (completion(temprature=1), 400, "temprature", "unknown_parameter"),
    "unsupported parameter": (completion(suffix="x"), 400, "suffix", "unsupported_parameter"),
}


@pytest.fixture
def http(demo: Tandem) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.http, timeout=PATIENCE_S, trust_env=False) as client:
        yield client


def refused(response: httpx.Response) -> dict[str, str | None]:
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    error: dict[str, str | None] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def answers_well(http: httpx.Client) -> bool:
    response = http.post("/v1/completions", content=completion())
    return response.status_code == 200 and response.json()["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("case", BAD_COMPLETIONS)
def test_bad_completions(http: httpx.Client, case: str) -> None:
    body, status, param, code = BAD_COMPLETIONS[case]
    response = http.post("/v1/completions", content=body)
    error = refused(response)
    assert (response.status_code, error["code"]) == (status, code), error
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert (error["param"] or "").startswith(param), error
    assert answers_well(http)


@pytest.mark.parametrize("stream", [True, False])
def test_a_refused_chat_has_its_status_streamed_or_not(http: httpx.Client, stream: bool) -> None:
    for messages in ([], [{"role": "user", "content": 5}], [{"content": "Hello"}], "Hello"):
        response = http.post("/v1/chat/completions", json={"model": DEMO, "messages": messages, "stream": stream})
        assert response.status_code == 400
        assert (refused(response)["param"] or "").startswith("messages")
    assert answers_well(http)


@pytest.mark.parametrize("announced", [True, False])
def test_a_huge_body_is_refused_before_it_is_there(demo: Tandem, http: httpx.Client, announced: bool) -> None:
    address = (http.base_url.host, http.base_url.port or 0)
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        size = f"Content-Length: {HUGE}" if announced else "Transfer-Encoding: chunked"
        connection.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: test\r\n{size}\r\n\r\n".encode())
        part = bytes(1 << 20)
        framed = part if announced else b"%x\r\n%b\r\n" % (len(part), part)
        num_sent = 0
        while num_sent < HUGE and not select.select([connection], [], [], 0)[0]:
            connection.sendall(framed)
            num_sent += len(part)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
        assert num_sent < HUGE, "the answer came when everything was sent"
    assert answers_well(http)


def test_who_sends_a_huge_body_whole_hears_why_not(http: httpx.Client) -> None:
    response = http.post("/v1/chat/completions", content=bytes(HUGE))
    assert response.status_code == 413
    assert refused(response)["type"] == "invalid_request_error"
    assert answers_well(http)


# -- gRPC ------------------------------------------------------------------------------------------------------------


def ask(**fields: object) -> bytes:
    return pb.GenerateRequest(**{"text": "Hello", **fields}).SerializeToString()  # type: ignore[arg-type]


def ids(*tokens: int) -> bytes:
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=tokens)).SerializeToString()


INVALID, OVERFLOW = "INVALID_REQUEST", "CONTEXT_LENGTH_EXCEEDED"
BAD_GENERATES = {
    "malformed": (b"\x12\x7fshort", INVALID, None),
    "invalid UTF-8": (b"\x12\x02\xff\xfe", INVALID, None),
    "wrong type": (b"\x10\x05", INVALID, "prompt"),  # the text as a number: to protobuf, an unknown field
    "no prompt": (b"", INVALID, "prompt"),
    "empty prompt": (ask(text=""), INVALID, "prompt"),
    "no tokens": (ids(), INVALID, "prompt"),
    "too long a prompt": (ids(*TOO_LONG), OVERFLOW, "prompt"),
    "too long an answer": (ask(stopping=pb.Stopping(max_tokens=1 << 20)), OVERFLOW, "stopping.max_tokens"),
    "no such token": (ids(5, NOT_IN_THE_VOCABULARY), INVALID, "prompt"),
    "negative token": (ids(5, -1), INVALID, "prompt"),
    "unknown model": (ask(model="gpt-4"), "MODEL_NOT_FOUND", None),
    "negative temperature": (ask(sampling=pb.Sampling(temperature=-0.5)), INVALID, "sampling.temperature"),
    "NaN": (ask(sampling=pb.Sampling(temperature=NAN)), INVALID, "sampling.temperature"),
    "NaN as a penalty": (ask(sampling=pb.Sampling(presence_penalty=NAN)), INVALID, "sampling.presence_penalty"),
    "NaN as a bias": (ask(sampling=pb.Sampling(logit_bias={5: NAN})), INVALID, "sampling.logit_bias"),
    "infinity": (ask(sampling=pb.Sampling(top_p=float("inf"))), INVALID, "sampling.top_p"),
    "negative top_k": (ask(sampling=pb.Sampling(top_k=-5)), INVALID, "sampling.top_k"),
    "negative max_tokens": (ask(stopping=pb.Stopping(max_tokens=-4)), INVALID, "stopping.max_tokens"),
    "no messages": (pb.GenerateRequest(chat=pb.Chat()).SerializeToString(), INVALID, "chat.messages"),
}
STATUS = {INVALID: "INVALID_ARGUMENT", OVERFLOW: "INVALID_ARGUMENT", "MODEL_NOT_FOUND": "NOT_FOUND"}


@contextmanager
def status_of_raw(server: Tandem, raw: bytes) -> Iterator[grpc.Call]:
    """The error that Generate gives for these bytes; a good call on the same channel is answered afterwards."""
    with grpc.insecure_channel(server.grpc, options=GRPC_OPTIONS) as channel:
        generate = channel.unary_stream("/tandem.v1.Inference/Generate", None, None)  # bytes as they are
        with pytest.raises(grpc.RpcError) as failure:
            list(generate(raw, timeout=PATIENCE_S))
        yield cast("grpc.Call", failure.value)
        stub = generate_pb2_grpc.InferenceStub(channel)
        *_, last = stub.Generate(chat_request("Hello", 4), timeout=PATIENCE_S)
        assert last.finished.usage.completion_tokens > 0


@pytest.mark.parametrize("case", BAD_GENERATES)
def test_bad_generates(demo: Tandem, case: str) -> None:
    raw, reason, field = BAD_GENERATES[case]
    with status_of_raw(demo, raw) as error:
        assert error.code().name == STATUS[reason], error
        status = rpc_status.from_call(error)
        said = {detail.TypeName().rpartition(".")[2]: detail for detail in status.details}
        info = details.ErrorInfo.FromString(said["ErrorInfo"].value)
        assert (info.reason, info.domain) == (reason, "tandem")
        if field is not None:
            violations = details.BadRequest.FromString(said["BadRequest"].value).field_violations
            assert violations[0].field.startswith(field), violations


def test_a_huge_message(demo: Tandem) -> None:
    with status_of_raw(demo, pb.GenerateRequest(text="a" * HUGE).SerializeToString()) as error:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
