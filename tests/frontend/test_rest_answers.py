"""The shapes of answers of both endpoints, whole and in chunks."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from engine.errors import ContextOverflow, Overloaded
from frontend.events import Delta, Finish, Finished, TokenLogprob, TokenLogprobs, Usage
from tests.frontend.fake_inference import MODEL, TIMING, FakeInference, Step, say
from tests.frontend.test_rest_app import rest_client

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
QUESTION: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
PROMPT: dict[str, Any] = {"model": MODEL, "prompt": "hi"}
TIMING_JSON = {
    "ttft_ms": TIMING.ttft_ms,
    "segments": TIMING.ttft_segments,
    "second_token_ms": TIMING.second_token_ms,
    "second_token_segments": TIMING.second_token_segments,
    "client_ms": 0.0,
    "cached_share": 0.0,
    "clock_within_ms": TIMING.clock_within_ms,
}


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(inference) as client:
        yield client


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any], **headers: str) -> Any:
    response = await client.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


async def chunks(client: httpx.AsyncClient, path: str, body: dict[str, Any], **headers: str) -> list[Any]:
    response = await client.post(path, json={**body, "stream": True}, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *events, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(event.startswith("data: {") for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


# -- chat --------------------------------------------------------------------------------------------------------------


async def test_a_whole_chat_answer(client: httpx.AsyncClient) -> None:
    answer = await post(client, CHAT, QUESTION)
    assert isinstance(answer.pop("created"), int)
    assert answer.pop("system_fingerprint").startswith("fp_")
    message = {"role": "assistant", "content": "Hello!", "refusal": None}
    assert answer == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 8,
            "completion_tokens": 6,
            "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }


async def test_a_streamed_chat_answer(client: httpx.AsyncClient) -> None:
    first, *_ = events = await chunks(client, CHAT, QUESTION)
    heads = [{key: value for key, value in event.items() if key != "choices"} for event in events]
    assert heads == [heads[0]] * len(events)
    assert set(first) == {"id", "object", "created", "model", "system_fingerprint", "choices"}
    assert first["object"] == "chat.completion.chunk"
    assert [event["choices"] for event in events] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        for delta, reason in (
            ({"role": "assistant", "content": "", "refusal": None}, None),
            ({"content": "Hel"}, None),
            ({"content": "lo"}, None),
            ({"content": "!"}, None),
            ({}, "stop"),
        )
    ]


@pytest.mark.parametrize(("path", "body"), [(CHAT, QUESTION), (COMPLETIONS, PROMPT)])
async def test_streams_end_with_usage_when_asked(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    whole = await post(client, path, body)
    *events, last = await chunks(client, path, {**body, "stream_options": {"include_usage": True}})
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    events = await chunks(client, path, {**body, "stream_options": {"include_usage": False}})
    assert all(event["choices"] and "usage" not in event for event in events)


@pytest.mark.parametrize(("path", "body"), [(CHAT, QUESTION), (COMPLETIONS, PROMPT)])
async def test_timing_on_request(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    assert (await post(client, path, body, **{"x-tandem-timing": "1"}))["timing"] == TIMING_JSON
    assert "timing" not in await post(client, path, body, **{"x-tandem-timing": "0"})
    *events, last = await chunks(client, path, body, **{"x-tandem-timing": "1"})
    assert (last["choices"], last["timing"]) == ([], TIMING_JSON)
    assert all("timing" not in event for event in events)


async def test_chat_logprobs() -> None:
    script = say("h\u00e9")
    async with rest_client(FakeInference(script)) as client:
        body = {**QUESTION, "logprobs": True, "top_logprobs": 3}
        (choice,) = (await post(client, CHAT, body))["choices"]
        content = choice["logprobs"]["content"]
        assert choice["logprobs"]["refusal"] is None
        assert [entry["token"] for entry in content] == ["h", "bytes:\\xc3", "bytes:\\xa9"]
        assert content[0] == {
            "token": "h",
            "logprob": -0.5,
            "bytes": [104],
            "top_logprobs": [
                {"token": "h", "logprob": -0.5, "bytes": [104]},
                {"token": "i", "logprob": -1.5, "bytes": [105]},
                {"token": "g", "logprob": -9999.0, "bytes": [103]},
            ],
        }
        streamed = [event["choices"][0]["logprobs"] for event in await chunks(client, CHAT, body)]
        assert [entry for logprobs in streamed if logprobs for entry in logprobs["content"]] == content
        (bare,) = (await post(client, CHAT, {**QUESTION, "logprobs": True}))["choices"]
        assert [entry["top_logprobs"] for entry in bare["logprobs"]["content"]] == [[], [], []]


async def test_text_that_json_must_escape() -> None:
    text = 'a"\\\n\r\t\u2028\x00\U0001f600</script>'
    async with rest_client(FakeInference(say(text, ""))) as client:
        assert (await post(client, CHAT, QUESTION))["choices"][0]["message"]["content"] == text
        _, *events, _ = await chunks(client, CHAT, QUESTION)
        assert [event["choices"][0]["delta"]["content"] for event in events] == [text]


# -- completions -------------------------------------------------------------------------------------------------------


async def test_a_whole_completion() -> None:
    async with rest_client(FakeInference(say("Hi", reason=Finish.LENGTH, matched=None))) as client:
        answer = await post(client, COMPLETIONS, PROMPT)
        assert isinstance(answer.pop("created"), int)
        assert answer.pop("system_fingerprint").startswith("fp_")
        assert answer == {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": MODEL,
            "choices": [{"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "length"}],
            "usage": {
                "prompt_tokens": 2,
                "completion_tokens": 2,
                "total_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 1},
            },
        }


async def test_a_streamed_completion(client: httpx.AsyncClient) -> None:
    events = await chunks(client, COMPLETIONS, PROMPT)
    assert {event["object"] for event in events} == {"text_completion"}
    assert [event["choices"] for event in events] == [
        [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]
        for text, reason in (("Hel", None), ("lo", None), ("!", None), ("", "stop"))
    ]


async def test_completion_logprobs() -> None:
    async with rest_client(FakeInference(say("h\u00e9", "a"))) as client:
        (choice,) = (await post(client, COMPLETIONS, {**PROMPT, "logprobs": 2}))["choices"]
        assert choice["logprobs"] == {
            "tokens": ["h", "bytes:\\xc3", "bytes:\\xa9", "a"],
            "token_logprobs": [-0.5] * 4,
            "top_logprobs": [
                {"h": -0.5, "i": -1.5},
                {"bytes:\\xc3": -0.5, "bytes:\\xc4": -1.5},
                {"bytes:\\xa9": -0.5, "bytes:\\xaa": -1.5},
                {"a": -0.5, "b": -1.5},
            ],
            "text_offset": [0, 1, 1, 2],
        }
        streamed = [e["choices"][0]["logprobs"] for e in await chunks(client, COMPLETIONS, {**PROMPT, "logprobs": 2})]
        for key, values in choice["logprobs"].items():
            assert [value for logprobs in streamed if logprobs for value in logprobs[key]] == values
        (bare,) = (await post(client, COMPLETIONS, {**PROMPT, "logprobs": 0}))["choices"]
        assert bare["logprobs"]["top_logprobs"][0] == {"h": -0.5}


async def test_the_chosen_token_is_among_the_top_ones_even_when_unlikely() -> None:
    entry = TokenLogprobs(TokenLogprob(122, -7.0, b"z"), (TokenLogprob(97, -0.1, b"a"),))
    script = [Delta("z", (122,), 0, (entry,)), *say()]
    async with rest_client(FakeInference(script)) as client:
        (choice,) = (await post(client, COMPLETIONS, {**PROMPT, "logprobs": 1}))["choices"]
        assert choice["logprobs"]["top_logprobs"] == [{"z": -7.0, "a": -0.1}]


async def test_the_default_length_is_16_or_what_is_left(client: httpx.AsyncClient, inference: FakeInference) -> None:
    async def lengths(body: dict[str, Any]) -> list[int | None]:
        inference.requests.clear()
        response = await client.post(COMPLETIONS, json={**PROMPT, **body})
        assert inference.idle.is_set()
        assert response.status_code == 200 or response.json()["error"]["code"] == "context_length_exceeded"
        return [request.max_tokens for request in inference.requests]

    assert await lengths({}) == [16]
    assert await lengths({"prompt": [5] * 4080}) == [16]
    assert await lengths({"prompt": [5] * 4081}) == [16, None]
    assert await lengths({"prompt": [5] * 4096}) == [16]
    assert await lengths({"max_tokens": 20}) == [20]
    assert await lengths({"prompt": [5] * 4081, "max_tokens": 16}) == [16]
    await client.post(CHAT, json=QUESTION)
    assert inference.requests[-1].max_tokens is None


async def test_an_answer_may_begin_with_its_prompt(client: httpx.AsyncClient) -> None:
    whole = await post(client, COMPLETIONS, {**PROMPT, "prompt": ["h\u00e9", "b"], "echo": True})
    assert [choice["text"] for choice in whole["choices"]] == ["h\u00e9Hello!", "bHello!"]
    by_ids = await post(client, COMPLETIONS, {**PROMPT, "prompt": [104, 105], "echo": True})
    assert by_ids["choices"][0]["text"] == "hiHello!"
    events = await chunks(client, COMPLETIONS, {**PROMPT, "echo": True})
    assert [event["choices"][0]["text"] for event in events] == ["hi", "Hel", "lo", "!", ""]
    response = await client.post(COMPLETIONS, json={**PROMPT, "prompt": [900], "echo": True})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")


async def test_log_probabilities_of_a_prompt_come_before_those_of_its_answer(client: httpx.AsyncClient) -> None:
    asked = {**PROMPT, "echo": True, "logprobs": 1, "prompt": ["h\u00e9", "b"]}
    first, second = (await post(client, COMPLETIONS, asked))["choices"]
    assert first["logprobs"] == {
        "tokens": ["h", "bytes:\\xc3", "bytes:\\xa9", *"Hello!"],
        "token_logprobs": [None, -2.0, -3.0, *[-0.5] * 6],
        "top_logprobs": [
            None,
            {"bytes:\\xc3": -2.0, "</s>": -0.25},
            {"bytes:\\xa9": -3.0, "</s>": -0.25},
            *({char: -0.5} for char in "Hello!"),
        ],
        "text_offset": [0, 1, 1, 2, 3, 4, 5, 6, 7],
    }
    assert second["logprobs"]["token_logprobs"] == [None, *[-0.5] * 6]
    opening, *rest = await chunks(client, COMPLETIONS, {**asked, "prompt": "h\u00e9"})
    assert opening["choices"][0]["text"] == "h\u00e9"
    told = [chunk["choices"][0]["logprobs"] for chunk in (opening, *rest)]
    assert told.pop() is None
    assert {name: [each for logprobs in told for each in logprobs[name]] for name in told[0]} == first["logprobs"]


async def test_a_prompt_alone(client: httpx.AsyncClient) -> None:
    asked = {**PROMPT, "echo": True, "logprobs": 0, "max_tokens": 0}
    answer = await post(client, COMPLETIONS, asked)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hi", "length")
    assert choice["logprobs"]["top_logprobs"] == [None, {"i": -2.0}]
    assert "prompt_token_ids" not in choice
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (2, 0)
    opening, closing = await chunks(client, COMPLETIONS, asked)
    assert opening["choices"][0]["logprobs"] == choice["logprobs"]
    assert closing["choices"][0]["finish_reason"] == "length"
    response = await client.post(COMPLETIONS, json={**PROMPT, "max_tokens": 0})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "max_tokens")


async def test_a_prompt_as_vllm_tells_it(client: httpx.AsyncClient) -> None:
    end = {"logprob": -0.25, "rank": 1, "decoded_token": "</s>"}
    expected = [None, {"105": {"logprob": -2.0, "rank": 2, "decoded_token": "i"}, "256": end}]
    choices = (await post(client, COMPLETIONS, {**PROMPT, "prompt_logprobs": 2, "n": 2}))["choices"]
    assert [choice["prompt_logprobs"] for choice in choices] == [expected, expected]
    answer = await post(client, CHAT, {**QUESTION, "prompt_logprobs": 0})
    assert answer["prompt_logprobs"][0] is None
    assert [len(told) for told in answer["prompt_logprobs"][1:]] == [1] * 7
    assert "prompt_logprobs" not in await post(client, CHAT, QUESTION)
    response = await client.post(CHAT, json={**QUESTION, "prompt_logprobs": 21})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt_logprobs")


async def test_a_suffix_needs_a_model_that_knows_such_things(client: httpx.AsyncClient) -> None:
    response = await client.post(COMPLETIONS, json={**PROMPT, "suffix": "b"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "suffix", "unsupported_parameter")


def likely(text: str, logprob: float) -> list[Step]:
    entry = TokenLogprobs(TokenLogprob(97, logprob, b"a"), ())
    return [Delta(text, (97,), 0, (entry,)), Finished(Finish.STOP, None, Usage(0, 1, 1), TIMING)]


async def test_the_likeliest_answers_are_given() -> None:
    scripts = [likely("a", -2.0), likely("b", -0.5), likely("c", -1.0), likely("d", -3.0), likely("e", -4.0), say()]
    body = {**PROMPT, "prompt": ["x", "y"], "n": 2, "best_of": 3}
    async with rest_client(FakeInference(scripts=scripts)) as client:
        made = await post(client, COMPLETIONS, body)
    assert [choice["text"] for choice in made["choices"]] == ["b", "c", "d", "e"]
    assert [choice["index"] for choice in made["choices"]] == [0, 1, 2, 3]
    assert all(choice["logprobs"] is None for choice in made["choices"])
    assert made["usage"]["completion_tokens"] == 5, "those that are not given were generated, too"


@pytest.mark.parametrize(("path", "body"), [(CHAT, QUESTION), (COMPLETIONS, PROMPT)])
async def test_the_usage_so_far(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    options = {"stream_options": {"continuous_usage_stats": True}}
    whole = (await post(client, path, body))["usage"]
    events = await chunks(client, path, {**body, **options})
    assert all(event["choices"] for event in events)
    used = [event["usage"] for event in events]
    assert {usage["prompt_tokens"] for usage in used} == {whole["prompt_tokens"]}
    assert [usage["total_tokens"] - usage["completion_tokens"] for usage in used] == [whole["prompt_tokens"]] * len(
        used
    )
    tokens = [usage["completion_tokens"] for usage in used]
    assert tokens == sorted(tokens)
    assert (tokens[0], tokens[-1]) == (3, whole["completion_tokens"])
    *_, last = await chunks(
        client, path, {**body, "stream_options": {**options["stream_options"], "include_usage": True}}
    )
    assert (last["choices"], last["usage"]) == ([], whole)
    *_, last = await chunks(client, path, {**body, **options, "n": 2})
    assert last["usage"]["completion_tokens"] == 2 * whole["completion_tokens"]
    assert last["usage"]["prompt_tokens"] == whole["prompt_tokens"]


async def test_tokens_of_completions(client: httpx.AsyncClient) -> None:
    body = {**PROMPT, "prompt": ["hi", "b"], "return_token_ids": True}
    whole = await post(client, COMPLETIONS, body)
    assert [choice["token_ids"] for choice in whole["choices"]] == [list(b"Hello!")] * 2
    assert [choice["prompt_token_ids"] for choice in whole["choices"]] == [list(b"hi"), list(b"b")]
    events = [event["choices"][0] for event in await chunks(client, COMPLETIONS, body)]
    for index, prompt in enumerate((b"hi", b"b")):
        first, *others, last = [choice for choice in events if choice["index"] == index]
        assert (first["prompt_token_ids"], first["token_ids"], first["text"]) == (list(prompt), list(b"Hel"), "Hel")
        assert [choice["token_ids"] for choice in others] == [list(b"lo"), list(b"!")]
        assert not [choice for choice in (*others, last) if "prompt_token_ids" in choice]
    assert "token_ids" not in (await post(client, COMPLETIONS, PROMPT))["choices"][0]


async def test_tokens_of_chat() -> None:
    body = {**QUESTION, "return_token_ids": True, "logprobs": True}
    script: list[Step] = [Delta("", (5,), 0), *say("ab")]
    async with rest_client(FakeInference(script)) as client:
        whole = await post(client, CHAT, body)
        assert (whole["prompt_token_ids"], whole["choices"][0]["token_ids"]) == (list(b"user:hi\n"), [5, *b"ab"])
        first, held, text, last = await chunks(client, CHAT, body)
    assert first["prompt_token_ids"] == list(b"user:hi\n")
    assert not [event for event in (held, text, last) if "prompt_token_ids" in event]
    assert (held["choices"][0]["token_ids"], held["choices"][0]["delta"]) == ([5], {"content": ""})
    assert (text["choices"][0]["token_ids"], text["choices"][0]["delta"]) == (list(b"ab"), {"content": "ab"})
    assert len(text["choices"][0]["logprobs"]["content"]) == 2
    assert "token_ids" not in last["choices"][0]


# -- several answers ---------------------------------------------------------------------------------------------------


async def test_several_answers_to_several_prompts() -> None:
    scripts = [say("a"), say("bb"), say("c"), say("dddd")]
    body = {**PROMPT, "prompt": ["x", "yyy"], "n": 2, "stream_options": {"include_usage": True}}
    async with rest_client(FakeInference(scripts=[*scripts, *scripts])) as client:
        events = await chunks(client, COMPLETIONS, body)
        del body["stream_options"]
        whole = await post(client, COMPLETIONS, body)
    assert [(choice["index"], choice["text"]) for choice in whole["choices"]] == list(
        enumerate(["a", "bb", "c", "dddd"])
    )
    usage = {"prompt_tokens": 4, "completion_tokens": 8, "total_tokens": 12}
    assert whole["usage"] == {**usage, "prompt_tokens_details": {"cached_tokens": 2}}
    assert events[-1]["usage"] == whole["usage"]
    texts = dict.fromkeys(range(4), "")
    for event in events[:-1]:
        (choice,) = event["choices"]
        texts[choice["index"]] += choice["text"]
    assert list(texts.values()) == ["a", "bb", "c", "dddd"]


async def test_answers_of_a_stream_do_not_wait_for_each_other() -> None:
    later = asyncio.Event()
    first: list[Step] = [*say("a")[:1], later, *say("b")]
    second: list[Step] = [*say("c")[:1], later.set, *say()]
    async with rest_client(FakeInference(scripts=[first, second])) as client:
        events = await chunks(client, CHAT, {**QUESTION, "n": 2})
    said = [(c["index"], c["delta"].get("content"), c["finish_reason"]) for e in events for c in e["choices"]]
    assert said == [
        (0, "", None),
        (0, "a", None),
        (1, "", None),
        (1, "c", None),
        (1, None, "stop"),
        (0, "b", None),
        (0, None, "stop"),
    ]


@pytest.mark.parametrize("stream", [True, False])
async def test_one_refused_answer_refuses_them_all(stream: bool) -> None:
    inference = FakeInference(scripts=[[asyncio.Event(), *say("a")], [Overloaded("full", retry_after_s=1)]])
    async with rest_client(inference) as client:
        response = await client.post(CHAT, json={**QUESTION, "n": 2, "stream": stream})
        assert response.status_code == 429
        assert inference.idle.is_set()


async def test_trace_headers_are_handed_on(client: httpx.AsyncClient, inference: FakeInference) -> None:
    headers = [("traceparent", "00-a-b-01"), ("tracestate", "x=1"), ("tracestate", "y=2"), ("baggage", "z")]
    await client.post(CHAT, json=QUESTION, headers=headers)
    assert inference.requests[0].trace_headers == {"traceparent": "00-a-b-01", "tracestate": "x=1,y=2"}


async def test_a_late_overflow_is_not_tried_again() -> None:
    script: list[Step] = [Delta("a", (1,), 0), ContextOverflow("no", field="max_tokens")]
    inference = FakeInference(script)
    async with rest_client(inference) as client:
        assert (await client.post(COMPLETIONS, json=PROMPT)).status_code == 400
        assert len(inference.requests) == 1
