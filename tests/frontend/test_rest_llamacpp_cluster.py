"""llama.cpp's dialect over real workers: the answers are those of llama.cpp with the same weights."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.cluster import cluster
from tests.frontend.llamacpp_recorded import RECORDED
from tests.frontend.test_rest_app import rest_client
from tests.shared_data import shared_data


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        cluster(shared_data("models", RECORDED.model)) as running,
        rest_client(running.inference) as client,  # type: ignore[arg-type]
    ):
        yield client


async def post(client: httpx.AsyncClient, body: dict[str, Any]) -> Any:
    response = await client.post("/completion", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_greedy_answers_are_llama_cpps(client: httpx.AsyncClient) -> None:
    for name, recorded in RECORDED.texts.items():
        answers = await post(client, recorded["body"])
        answers = answers if isinstance(answers, list) else [answers]
        expected = recorded["answers"]
        told = [{key: answer[key] for key in one} for answer, one in zip(answers, expected, strict=True)]
        assert told == expected, name


async def test_streamed_answers_are_the_whole_ones(client: httpx.AsyncClient) -> None:
    body = {"prompt": ["The dog", [1, 403, 407]], "n_predict": 12, "temperature": 0, "return_tokens": True}
    answers = await post(client, body)
    streamed = await client.post("/completion", json={**body, "stream": True})
    events = [json.loads(part.removeprefix("data: ")) for part in streamed.text.split("\n\n")[:-1]]
    for index, answer in enumerate(answers):
        own = [event for event in events if event["index"] == index]
        assert "".join(event["content"] for event in own) == answer["content"]
        assert [token for event in own for token in event["tokens"]] == answer["tokens"]


async def test_probabilities_are_llama_cpps(client: httpx.AsyncClient) -> None:
    recorded = RECORDED.probabilities

    def compared(entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, "logprob": pytest.approx(entry["logprob"], rel=5e-3, abs=2e-3)}  # its KV cache is float16

    told = (await post(client, recorded["body"]))["completion_probabilities"]
    assert told == [
        {**compared(entry), "top_logprobs": [compared(other) for other in entry["top_logprobs"]]}
        for entry in recorded["tokens"]
    ]


async def test_what_is_drawn_can_be_drawn_again(client: httpx.AsyncClient) -> None:
    body = {"prompt": "The dog", "n_predict": 20, "temperature": 1.2}
    first = await post(client, body)
    again = await post(client, {**body, "seed": first["generation_settings"]["seed"]})
    assert again["content"] == first["content"]


async def test_a_json_schema_is_followed(client: httpx.AsyncClient) -> None:
    schema = {"enum": [{"a": True}, {"a": False}]}
    answer = await post(client, {"prompt": "The dog", "json_schema": schema, "n_predict": 200})
    assert json.loads(answer["content"]) in schema["enum"]
    assert answer["stop_type"] == "eos"


async def test_tokens_that_were_computed_are_told(client: httpx.AsyncClient) -> None:
    body = {"prompt": "The dog and the cat " * 8, "n_predict": 4, "temperature": 0}
    await post(client, body)
    answer = await post(client, body)
    timings = answer["timings"]
    assert answer["tokens_cached"] == timings["cache_n"] >= 16
    assert timings["cache_n"] + timings["prompt_n"] == answer["tokens_evaluated"]
    assert timings["prompt_ms"] > 0
    assert timings["predicted_ms"] > 0
