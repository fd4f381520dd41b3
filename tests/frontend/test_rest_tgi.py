"""TGI's dialect over a scripted inference: what is taken, how it is answered, and how it is refused."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from engine.errors import Overloaded, PermissionDenied, Poisoned, ProtocolError, Unavailable, Unsupported
from frontend.events import Delta, Finish, Finished, TokenLogprob, TokenLogprobs
from frontend.request import GenerateRequest, Grammar, GrammarKind
from frontend.rest.app import dialects_of
from frontend.rest.openapi import openapi_document
from frontend.rest.tgi.request_types import PARAMETERS_OFF, TgiParameters
from tests.frontend.fake_inference import EOS, MAX_CONTEXT, MODEL, TIMING, FakeInference, Step, Usage, logprobs_of, say
from tests.frontend.test_rest_app import rest_client
from tests.frontend.test_rest_server import served

PATHS = ("/", "/generate", "/generate_stream")
SCHEMAS: Any = openapi_document(dialects_of(FakeInference()))["components"]["schemas"]  # type: ignore[index]
AT_THE_END = TokenLogprobs(TokenLogprob(EOS, -0.25, b"</s>"), ())


def ended(*texts: str) -> list[Step]:
    """An answer that ends with a token of its own, which has no text."""
    *deltas, finished = say(*texts)
    assert isinstance(finished, Finished)
    num_tokens = finished.usage.completion_tokens
    end = Delta("", (EOS,), num_tokens, (AT_THE_END,), is_last=True)
    usage = Usage(0, num_tokens + 1, 1)
    began = [delta._replace(is_last=False) for delta in deltas if isinstance(delta, Delta)]
    return [*began, end, Finished(Finish.STOP, EOS, usage, TIMING)]


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference(ended("Hel", "lo"))


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


async def ask(client: httpx.AsyncClient, path: str = "/generate", **parameters: object) -> httpx.Response:
    return await client.post(path, json={"inputs": "hi", "parameters": parameters})


async def taken(client: httpx.AsyncClient, inference: FakeInference, **parameters: object) -> GenerateRequest:
    """What the frontend is asked for by a request with these parameters."""
    response = await ask(client, **parameters)
    assert response.status_code == 200, response.text
    return inference.requests[-1]


def events_of(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data:{") for part in parts)
    return [json.loads(part.removeprefix("data:")) for part in parts]


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_a_whole_answer(client: httpx.AsyncClient) -> None:
    response = await client.post("/generate", json={"inputs": "hi"})
    assert response.status_code == 200
    assert response.json() == {"generated_text": "Hello"}
    assert response.headers["x-request-id"] == "req-1"
    assert response.headers["x-prompt-tokens"] == "2"
    assert response.headers["x-generated-tokens"] == "6"
    assert response.headers["x-compute-characters"] == "2"
    assert float(response.headers["x-compute-time"]) >= 0


async def test_the_root_answers_with_a_list_or_a_stream(client: httpx.AsyncClient) -> None:
    assert (await client.post("/", json={"inputs": "hi"})).json() == [{"generated_text": "Hello"}]
    streamed = await client.post("/", json={"inputs": "hi", "stream": True})
    assert events_of(streamed)[-1]["generated_text"] == "Hello"
    assert "text/html" in (await client.get("/", headers={"accept": "text/html"})).headers["content-type"]


async def test_details(client: httpx.AsyncClient, inference: FakeInference) -> None:
    answer = (await ask(client, details=True, do_sample=True, seed=7)).json()
    tokens = [{"id": ord(char), "text": char, "logprob": -0.5, "special": False} for char in "Hello"]
    assert answer == {
        "generated_text": "Hello",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 6,
            "seed": 7,
            "prefill": [],
            "tokens": [*tokens, {"id": EOS, "text": "</s>", "logprob": -0.25, "special": True}],
        },
    }
    assert inference.requests[-1].logprobs == 0


async def test_a_greedy_answer_has_no_seed(client: httpx.AsyncClient) -> None:
    assert (await ask(client, details=True)).json()["details"]["seed"] is None
    assert events_of(await ask(client, "/generate_stream", details=True))[-1]["details"]["seed"] is None


async def test_top_tokens(client: httpx.AsyncClient, inference: FakeInference) -> None:
    inference.script = say("a")
    expected = [
        {"id": 97, "text": "a", "logprob": -0.5, "special": False},
        {"id": 98, "text": "b", "logprob": -1.5, "special": False},
        {"id": 96, "text": "`", "logprob": None, "special": False},
    ]
    details = (await ask(client, details=True, top_n_tokens=3)).json()["details"]
    assert details["top_tokens"] == [expected]
    (event,) = events_of(await ask(client, "/generate_stream", top_n_tokens=2))
    assert event["top_tokens"] == expected[:2]


async def test_a_stream_has_an_event_for_every_token_and_the_last_says_how_it_ended(client: httpx.AsyncClient) -> None:
    events = events_of(await ask(client, "/generate_stream", details=True, temperature=0.5, seed=3))
    assert [event["index"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert "".join(event["token"]["text"] for event in events) == "Hello</s>"
    for event in events[:-1]:
        assert event.keys() == {"index", "token", "generated_text", "details"}
        assert event["generated_text"] is event["details"] is None
    assert events[-1]["token"] == {"id": EOS, "text": "</s>", "logprob": -0.25, "special": True}
    assert events[-1]["generated_text"] == "Hello"
    expected = {"finish_reason": "eos_token", "generated_tokens": 6, "seed": 3, "input_length": 2}
    assert events[-1]["details"] == expected
    assert events_of(await ask(client, "/generate_stream"))[-1]["details"] is None


async def test_tokens_are_sent_as_they_are_made() -> None:
    more = asyncio.Event()
    inference = FakeInference([*ended("a")[:1], more, *say("b")])
    body = {"inputs": "hi", "stream": True}
    async with served(inference) as client, client.stream("POST", "/", json=body) as response:
        lines = response.aiter_lines()
        assert json.loads((await anext(lines)).removeprefix("data:"))["token"]["text"] == "a"
        assert not more.is_set()
        more.set()
        *_, last = [line async for line in lines if line]
        assert json.loads(last.removeprefix("data:"))["generated_text"] == "ab"
    assert inference.idle.is_set()


@pytest.mark.parametrize("path", PATHS)
async def test_the_inputs_can_stand_before_the_answer(client: httpx.AsyncClient, path: str) -> None:
    response = await ask(client, path, return_full_text=True)
    if path == "/generate_stream":
        *events, last = events_of(response)
        assert last["generated_text"] == "hiHello"
        assert "".join(event["token"]["text"] for event in events) == "Hello"
    else:
        answer = response.json()
        assert (answer[0] if path == "/" else answer)["generated_text"] == "hiHello"


@pytest.mark.parametrize(
    ("reason", "matched", "expected"),
    [
        (Finish.LENGTH, None, "length"),
        (Finish.STOP, EOS, "eos_token"),
        (Finish.STOP, None, "eos_token"),
        (Finish.STOP, "lo", "stop_sequence"),
    ],
)
async def test_finish_reasons(
    client: httpx.AsyncClient, inference: FakeInference, reason: Finish, matched: str | int | None, expected: str
) -> None:
    inference.script = say("Hello", reason=reason, matched=matched)
    assert (await ask(client, details=True)).json()["details"]["finish_reason"] == expected
    assert events_of(await ask(client, "/generate_stream", details=True))[-1]["details"]["finish_reason"] == expected


async def test_a_character_is_told_with_the_token_that_ends_it(
    client: httpx.AsyncClient, inference: FakeInference
) -> None:
    inference.script = say("é", "ü!")
    tokens = (await ask(client, details=True)).json()["details"]["tokens"]
    assert [token["text"] for token in tokens] == ["", "é", "", "ü", "!"]
    broken = Delta("\ufffd", (0xC3,), 0, (logprobs_of(0xC3),), is_last=True)
    inference.script = [broken, Finished(Finish.LENGTH, None, Usage(0, 1, 0), TIMING)]
    (event,) = events_of(await ask(client, "/generate_stream"))
    assert event["token"]["text"] == event["generated_text"] == "\ufffd"


async def test_how_likely_the_inputs_are(client: httpx.AsyncClient, inference: FakeInference) -> None:
    answer = (await ask(client, decoder_input_details=True, best_of=2, do_sample=True)).json()
    prefill = [{"id": 104, "text": "h", "logprob": None}, {"id": 105, "text": "i", "logprob": -2.0}]
    assert answer["details"]["prefill"] == prefill
    assert answer["details"]["best_of_sequences"][0]["prefill"] == prefill
    assert [request.prompt_logprobs for request in inference.requests] == [0, None]
    for path in ("/generate_stream", "/"):
        body = {
            "inputs": "hi",
            "parameters": {"decoder_input_details": True},
            **({"stream": True} if path == "/" else {}),
        }
        response = await client.post(path, json=body)
        assert response.status_code == 422
        assert "decoder_input_details" in response.json()["error"]


# -- best_of -----------------------------------------------------------------------------------------------------------


def with_logprobs(text: str, logprobs: Sequence[float]) -> list[Step]:
    ids = tuple(text.encode())
    entries = tuple(
        TokenLogprobs(TokenLogprob(token, logprob, bytes([token])), ())
        for token, logprob in zip(ids, logprobs, strict=True)
    )
    usage = Usage(0, len(ids), 0)
    return [Delta(text, ids, 0, entries, is_last=True), Finished(Finish.LENGTH, None, usage, TIMING)]


async def test_the_best_answer_is_the_one_whose_tokens_are_likeliest_on_average(
    client: httpx.AsyncClient, inference: FakeInference
) -> None:
    # the sum of the longest is the least, and its mean the greatest
    scripts = [with_logprobs("b", [-1.0]), with_logprobs("long", [-0.5] * 4), with_logprobs("c", [-0.75])]
    inference.scripts = [list(script) for script in scripts]
    answer = (await ask(client, best_of=3, do_sample=True, details=True)).json()
    assert answer["generated_text"] == "long"
    assert answer["details"]["generated_tokens"] == 4
    others = answer["details"]["best_of_sequences"]
    assert [other["generated_text"] for other in others] == ["b", "c"]
    assert others[0]["tokens"] == [{"id": 98, "text": "b", "logprob": -1.0, "special": False}]
    assert others[0].keys() == {"generated_text", "finish_reason", "generated_tokens", "seed", "prefill", "tokens"}
    assert len({other["seed"] for other in (*others, answer["details"])}) == 3

    inference.scripts = [list(script) for script in scripts]
    assert (await ask(client, best_of=3, top_p=0.5)).json() == {"generated_text": "long"}


@pytest.mark.parametrize(
    ("parameters", "path", "named"),
    [
        ({"best_of": 2}, "/generate", "do_sample"),
        ({"best_of": 2, "temperature": 1.0}, "/generate", "do_sample"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "/generate", "seed"),
        ({"best_of": 2, "do_sample": True}, "/generate_stream", "best_of"),
        ({"best_of": 0}, "/generate", "best_of"),
        ({"best_of": 17, "do_sample": True}, "/generate", "best_of"),
    ],
)
async def test_what_best_of_does_not_go_with(
    client: httpx.AsyncClient, inference: FakeInference, parameters: dict[str, object], path: str, named: str
) -> None:
    response = await ask(client, path, **parameters)
    assert response.status_code == 422
    assert named in response.json()["error"]
    assert not inference.requests


# -- parameters --------------------------------------------------------------------------------------------------------


async def test_without_parameters_answers_are_sampled_and_with_any_they_are_greedy(
    client: httpx.AsyncClient, inference: FakeInference
) -> None:
    await client.post("/generate", json={"inputs": "hi"})
    await client.post("/generate", json={"inputs": "hi", "parameters": None})
    await client.post("/generate", json={"inputs": "hi", "parameters": {}})
    assert [request.temperature for request in inference.requests] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({"do_sample": True}, 1.0),
        ({"do_sample": False}, 0.0),
        ({"temperature": 1.0}, 0.0),
        ({"temperature": 0.5}, 0.5),
        ({"top_k": 5}, 1.0),
        ({"top_p": 0.5}, 1.0),
        ({"top_p": 1.0}, 0.0),
        ({"seed": 5, "repetition_penalty": 1.5, "frequency_penalty": 1.0}, 0.0),
        ({"do_sample": False, "temperature": 0.5}, 0.5),
    ],
)
async def test_what_changes_the_probabilities_asks_for_sampling(
    client: httpx.AsyncClient, inference: FakeInference, parameters: dict[str, object], temperature: float
) -> None:
    assert (await taken(client, inference, **parameters)).temperature == temperature


async def test_parameters_reach_the_request(client: httpx.AsyncClient, inference: FakeInference) -> None:
    request = await taken(
        client,
        inference,
        temperature=0.5,
        top_k=5,
        top_p=0.75,
        repetition_penalty=1.25,
        frequency_penalty=-0.5,
        max_new_tokens=20,
        stop=["a", "b"],
        seed=11,
        truncate=1,
    )
    assert (request.prompt, request.truncate_prompt, request.max_tokens, request.seed) == ("hi", 1, 20, 11)
    assert (request.temperature, request.top_k, request.top_p, request.repetition_penalty) == (0.5, 5, 0.75, 1.25)
    assert (request.frequency_penalty, request.stop, request.include_stop) == (-0.5, ("a", "b"), True)
    assert request.logprobs is None


async def test_what_is_left_out_is_nothing_that_the_models_files_say(
    client: httpx.AsyncClient, inference: FakeInference
) -> None:
    request = await taken(client, inference, do_sample=True)
    assert (request.temperature, request.top_k, request.top_p, request.min_p) == (1.0, 0, 1.0, 0.0)
    assert (request.repetition_penalty, request.presence_penalty, request.frequency_penalty) == (1.0, 0.0, 0.0)
    assert request.max_tokens is None


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("grammar", "expected"),
    [
        ({"type": "regex", "value": "[ab]+"}, Grammar(GrammarKind.REGEX, "[ab]+")),
        ({"type": "json", "value": SCHEMA}, Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))),
        ({"type": "json", "value": '{"type": "null"}'}, Grammar(GrammarKind.JSON_SCHEMA, '{"type": "null"}')),
        ({"type": "json_object", "value": SCHEMA}, Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))),
        (
            {"type": "json_schema", "value": {"schema": SCHEMA, "name": "n", "strict": True}},
            Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA)),
        ),
    ],
)
async def test_grammars(
    client: httpx.AsyncClient, inference: FakeInference, grammar: dict[str, object], expected: Grammar
) -> None:
    assert (await taken(client, inference, grammar=grammar)).grammar == expected


def test_documented_parameters_are_those_that_are_taken() -> None:
    properties = SCHEMAS["TgiParameters"]["properties"]
    assert set(properties) == set(TgiParameters.__struct_fields__)
    assert not set(properties) & set(PARAMETERS_OFF)
    # all that the last version of TGI has
    assert set(properties) | set(PARAMETERS_OFF) == {
        *("best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p"),
        *("do_sample", "max_new_tokens", "return_full_text", "stop", "truncate", "watermark", "details"),
        *("decoder_input_details", "seed", "top_n_tokens", "grammar", "adapter_id"),
    }
    assert SCHEMAS["TgiParameters"]["additionalProperties"] is False


async def test_what_asks_for_nothing_is_taken(client: httpx.AsyncClient) -> None:
    off = {"watermark": False, "typical_p": 1.0, "adapter_id": None}
    nothing = dict.fromkeys(TgiParameters.__struct_fields__)
    assert (await ask(client, **off, **nothing)).status_code == 200


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "inputs"),
        ({"inputs": ""}, "inputs"),
        ({"inputs": 5}, "inputs"),
        ({"inputs": "hi", "model": MODEL}, "model"),
        ({"inputs": "hi", "parameters": []}, "parameters"),
        ({"inputs": "hi", "parameters": {"watermark": True}}, "parameters.watermark"),
        ({"inputs": "hi", "parameters": {"typical_p": 0.5}}, "parameters.typical_p"),
        ({"inputs": "hi", "parameters": {"adapter_id": "a"}}, "parameters.adapter_id"),
        ({"inputs": "hi", "parameters": {"min_p": 0.5}}, "parameters.min_p"),
        ({"inputs": "hi", "parameters": {"temperature": 0.0}}, "temperature"),
        ({"inputs": "hi", "parameters": {"temperature": 3.0}}, "temperature"),
        ({"inputs": "hi", "parameters": {"top_k": 0}}, "top_k"),
        ({"inputs": "hi", "parameters": {"top_p": 0}}, "top_p"),
        ({"inputs": "hi", "parameters": {"top_p": 1.5}}, "top_p"),
        ({"inputs": "hi", "parameters": {"repetition_penalty": 0}}, "repetition_penalty"),
        ({"inputs": "hi", "parameters": {"frequency_penalty": 2.5}}, "frequency_penalty"),
        ({"inputs": "hi", "parameters": {"max_new_tokens": 0}}, "max_new_tokens"),
        ({"inputs": "hi", "parameters": {"max_new_tokens": MAX_CONTEXT}}, "max_new_tokens"),
        ({"inputs": "hi", "parameters": {"truncate": 0}}, "truncate"),
        ({"inputs": "hi", "parameters": {"top_n_tokens": 21}}, "top_n_tokens"),
        ({"inputs": "hi", "parameters": {"stop": "a"}}, "stop"),
        ({"inputs": "hi", "parameters": {"stop": [""]}}, "stop"),
        ({"inputs": "hi", "parameters": {"stop": ["a"] * 17}}, "stop"),
        ({"inputs": "hi", "parameters": {"grammar": {"type": "json"}}}, "parameters.grammar"),
        ({"inputs": "hi", "parameters": {"grammar": {"type": "json", "value": []}}}, "parameters.grammar.value"),
        ({"inputs": "hi", "parameters": {"grammar": {"type": "regex", "value": {}}}}, "parameters.grammar.value"),
        ({"inputs": "hi", "parameters": {"grammar": {"type": "gbnf", "value": ""}}}, "parameters.grammar.type"),
        (
            {"inputs": "hi", "parameters": {"grammar": {"type": "json_schema", "value": {"name": "a"}}}},
            "parameters.grammar.value",
        ),
    ],
)
@pytest.mark.parametrize("path", PATHS)
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, path: str, body: dict[str, object], named: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 422
    answer = response.json()
    assert answer.keys() == {"error", "error_type"}
    assert answer["error_type"] == "validation"
    assert named in answer["error"]


@pytest.mark.parametrize(("path", "stream"), [("/generate", True), ("/generate_stream", False)])
async def test_a_path_that_cannot_stream_or_not_says_so(client: httpx.AsyncClient, path: str, stream: bool) -> None:
    response = await client.post(path, json={"inputs": "hi", "stream": stream})
    assert response.status_code == 422
    assert "stream" in response.json()["error"]
    assert (await client.post(path, json={"inputs": "hi", "stream": not stream})).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "kind", "told"),
    [
        (Overloaded("full", retry_after_s=2.5), 429, "overloaded", "full"),
        (Unavailable("gone"), 503, "generation", "gone"),
        (Unsupported("no grammars", field="grammar"), 422, "validation", "no grammars"),
        (PermissionDenied("not for you"), 403, "authentication", "not for you"),
        (Poisoned("again and again"), 424, "generation", "again and again"),
        (ProtocolError("a bug"), 424, "generation", "a bug"),
        (RuntimeError("secret"), 424, "generation", "internal error"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
async def test_failures(
    client: httpx.AsyncClient, inference: FakeInference, path: str, error: Exception, status: int, kind: str, told: str
) -> None:
    inference.script = [error]
    response = await ask(client, path)
    assert response.status_code == status
    assert response.json() == {"error": told, "error_type": kind}
    assert response.headers.get("retry-after") == ("3" if status == 429 else None)


async def test_a_stream_that_breaks_says_so_in_an_event(client: httpx.AsyncClient, inference: FakeInference) -> None:
    inference.script = [*ended("Hel")[:1], Unavailable("the worker is gone")]
    events = events_of(await ask(client, "/generate_stream"))
    assert events[-1] == {"error": "the worker is gone", "error_type": "generation"}
    assert [event["token"]["text"] for event in events[:-1]] == ["H", "e", "l"]


async def test_keys_and_methods_are_refused_in_tgis_words() -> None:
    async with rest_client(FakeInference(), api_key="secret") as client:
        for path in PATHS:
            response = await client.post(path, json={"inputs": "hi"})
            assert response.status_code == 401
            assert response.json()["error_type"] == "authentication"
        assert (await client.get("/info")).status_code == 401
        assert (await client.get("/")).status_code == 200
        wrong = await client.get("/generate", headers={"Authorization": "Bearer secret"})
        assert wrong.status_code == 405
        assert wrong.json().keys() == {"error", "error_type"}


# -- what it says of itself --------------------------------------------------------------------------------------------


async def test_info(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()
    assert set(info) == set(SCHEMAS["TgiInfo"]["properties"])
    assert info["model_id"] == MODEL
    assert info["max_total_tokens"] == MAX_CONTEXT
    assert info["max_input_tokens"] == MAX_CONTEXT - 1
    assert info["max_concurrent_requests"] == 8
