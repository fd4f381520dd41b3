"""Requests that are too much of something are refused by name, before any work begins, in each dialect's words."""

import pytest

from engine.errors import InvalidRequest
from frontend import grpc_convert
from frontend.checks import (
    MAX_LOGIT_BIAS,
    MAX_MESSAGES,
    MAX_PROMPT_IDS,
    MAX_ROLE_CHARS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
)
from frontend.rest.openai.parse import MAX_CHOICES, MAX_PARTS
from protos import generate_pb2 as pb
from tests.frontend.fake_inference import MODEL, FakeInference
from tests.frontend.test_rest_app import error_of, rest_client

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = {"role": "user", "content": "hi"}
TOO_MUCH: list[tuple[str, dict[str, object], str]] = [
    (CHAT, {"messages": [HI] * (MAX_MESSAGES + 1)}, "messages"),
    (CHAT, {"messages": [{**HI, "content": [{"type": "text", "text": ""}] * (MAX_PARTS + 1)}]}, "messages[0].content"),
    (CHAT, {"messages": [{**HI, "name": "x" * 257}]}, "messages"),
    (CHAT, {"messages": [HI], "stop": ["x"] * (MAX_STOP_STRINGS + 1)}, "stop"),
    (CHAT, {"messages": [HI], "stop": "x" * 1001}, "stop"),
    (CHAT, {"messages": [HI], "stop_token_ids": [1] * (MAX_STOP_TOKEN_IDS + 1)}, "stop_token_ids"),
    (CHAT, {"messages": [HI], "logit_bias": {str(i): 0 for i in range(MAX_LOGIT_BIAS + 1)}}, "logit_bias"),
    (CHAT, {"messages": [HI], "metadata": {str(i): "" for i in range(65)}}, "metadata"),
    (CHAT, {"messages": [HI], "n": 17}, "n"),
    (COMPLETIONS, {"prompt": ["x"] * (MAX_CHOICES + 1)}, "prompt"),
    (COMPLETIONS, {"prompt": [1] * (MAX_PROMPT_IDS + 1)}, "prompt"),
    (COMPLETIONS, {"prompt": [[1] * (MAX_PROMPT_IDS + 1)]}, "prompt"),
]


@pytest.mark.parametrize(("path", "fields", "param"), TOO_MUCH, ids=[f"{path} {param}" for path, _, param in TOO_MUCH])
async def test_rest(path: str, fields: dict[str, object], param: str) -> None:
    inference = FakeInference()
    async with rest_client(inference, max_body_bytes=16 << 20) as client:
        response = await client.post(path, json={"model": MODEL, **fields})
    assert response.status_code == 400
    error = error_of(response)
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param)
    assert not inference.requests or param in ("stop", "stop_token_ids")


@pytest.mark.parametrize("digits", [40, 400, 4000])
@pytest.mark.parametrize(
    "name", ["temperature", "top_p", "top_k", "max_tokens", "n", "seed", "min_p", "logprobs", "stop_token_ids"]
)
async def test_numbers_that_nobody_means(name: str, digits: int) -> None:
    number = "1" + "0" * digits
    value = f"[{number}]" if name == "stop_token_ids" else number
    body = f'{{"model":"{MODEL}","prompt":"hi","{name}":{value}}}'
    async with rest_client(FakeInference()) as client:
        response = await client.post(COMPLETIONS, content=body)
        if name != "seed":  # of which 64 bits count
            assert response.status_code == 400
            assert error_of(response)["param"] in (name, None)
        bias = f'{{"model":"{MODEL}","prompt":"hi","logit_bias":{{"1":{number}}}}}'
        assert (await client.post(COMPLETIONS, content=bias)).status_code == 400


async def test_of_a_key_that_is_given_twice_the_last_counts() -> None:
    inference = FakeInference()
    async with rest_client(inference) as client:
        body = f'{{"model":"other","model":"{MODEL}","prompt":"a","prompt":"b"}}'
        assert (await client.post(COMPLETIONS, content=body)).status_code == 200
    assert inference.requests[0].prompt == "b"


def test_grpc() -> None:
    message = pb.ChatMessage(role="user", content="hi")
    for request, field in (
        (pb.GenerateRequest(chat=pb.Chat(messages=[message] * (MAX_MESSAGES + 1))), "chat.messages"),
        (pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role="x" * (MAX_ROLE_CHARS + 1))])), "chat.messages"),
        (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1] * (MAX_PROMPT_IDS + 1))), "prompt"),
        (pb.GenerateRequest(text="x", stopping=pb.Stopping(stop=["x"] * 17)), "stopping.stop"),
        (pb.GenerateRequest(text="x", stopping=pb.Stopping(stop_token_ids=[1] * 1025)), "stopping.stop_token_ids"),
        (
            pb.GenerateRequest(text="x", sampling=pb.Sampling(logit_bias=dict.fromkeys(range(1025), 0.0))),
            "sampling.logit_bias",
        ),
    ):
        with pytest.raises(InvalidRequest) as refused:
            grpc_convert.generate_request(request, {}, None)
        assert refused.value.field == field
    with pytest.raises(InvalidRequest):
        grpc_convert.tokenize_input(pb.TokenizeRequest(chat=pb.Chat(messages=[message] * (MAX_MESSAGES + 1))))
