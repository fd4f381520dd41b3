"""TGI's dialect over real workers: answers are those of the frontend's own request, whole and streamed alike."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from frontend.request import GenerateRequest, TokenPrompt
from tests.cluster import Cluster, cluster
from tests.frontend.test_rest_app import rest_client
from tests.shared_data import shared_data

PROMPT = "Once upon a time there was a little girl who had a red ball and a big dog. "


@pytest.fixture
async def running() -> AsyncIterator[Cluster]:
    async with cluster(shared_data("models", "stories260K")) as running:
        yield running


@pytest.fixture
async def client(running: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(running.inference) as client:  # type: ignore[arg-type]
        yield client


async def whole(client: httpx.AsyncClient, **parameters: object) -> Any:
    response = await client.post("/generate", json={"inputs": PROMPT, "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(client: httpx.AsyncClient, **parameters: object) -> list[Any]:
    response = await client.post("/generate_stream", json={"inputs": PROMPT, "parameters": parameters})
    assert response.status_code == 200, response.text
    return [json.loads(part.removeprefix("data:")) for part in response.text.split("\n\n")[:-1]]


async def test_whole_and_streamed_answers_have_the_same_tokens(running: Cluster, client: httpx.AsyncClient) -> None:
    made = await running.complete(GenerateRequest(prompt=PROMPT, temperature=0, max_tokens=20))
    assert [delta.is_last for delta in made.deltas] == [False] * (len(made.deltas) - 1) + [True]

    answer = await whole(client, max_new_tokens=20, details=True, top_n_tokens=2)
    tokens = answer["details"]["tokens"]
    assert [token["id"] for token in tokens] == made.token_ids
    assert "".join(token["text"] for token in tokens) == answer["generated_text"] == made.text
    assert [top[0]["id"] for top in answer["details"]["top_tokens"]] == made.token_ids  # it is greedy
    assert answer["details"]["finish_reason"] == "length"

    events = await streamed(client, max_new_tokens=20, details=True, top_n_tokens=2)
    assert [event["token"] for event in events] == tokens
    assert [event["top_tokens"] for event in events] == answer["details"]["top_tokens"]
    assert events[-1]["generated_text"] == made.text
    assert events[-1]["details"]["input_length"] == made.started.prompt_tokens


async def test_a_seed_makes_the_same_answer_again(client: httpx.AsyncClient) -> None:
    first = await whole(client, max_new_tokens=20, temperature=0.9, details=True)
    again = await whole(client, max_new_tokens=20, temperature=0.9, details=True, seed=first["details"]["seed"])
    assert again == first


async def test_an_answer_ends_with_its_stop_string(client: httpx.AsyncClient) -> None:
    answer = await whole(client, max_new_tokens=100, stop=["she"], details=True)
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert answer["generated_text"].endswith("she")
    assert answer["generated_text"].count("she") == 1
    events = await streamed(client, max_new_tokens=100, stop=["she"])
    assert events[-1]["generated_text"] == answer["generated_text"]


async def test_of_a_truncated_prompt_the_end_counts(running: Cluster, client: httpx.AsyncClient) -> None:
    ids = running.inference.tokenize(None, PROMPT)
    end = GenerateRequest(prompt=TokenPrompt(tuple(ids[-5:])), temperature=0, max_tokens=10)
    made = await running.complete(end)
    events = await streamed(client, max_new_tokens=10, truncate=5, details=True)
    assert [event["token"]["id"] for event in events] == made.token_ids
    assert events[-1]["details"]["input_length"] == 5
    long = {"inputs": PROMPT * 100, "parameters": {"max_new_tokens": 10, "truncate": 5}}
    assert (await client.post("/generate", json=long)).json()["generated_text"] == made.text
    del long["parameters"]["truncate"]  # type: ignore[attr-defined]
    assert (await client.post("/generate", json=long)).status_code == 422


async def test_the_best_of_several(client: httpx.AsyncClient) -> None:
    answer = await whole(client, max_new_tokens=8, best_of=4, do_sample=True, details=True)
    others = answer["details"]["best_of_sequences"]
    assert len(others) == 3

    def mean(sequence: Any) -> float:
        logprobs = [token["logprob"] for token in sequence["tokens"]]
        return sum(logprobs) / len(logprobs)

    assert mean(answer["details"]) == max(map(mean, (answer["details"], *others)))


async def test_a_grammar_is_followed(client: httpx.AsyncClient) -> None:
    answer = await whole(client, grammar={"type": "regex", "value": "(cat|dog)s!"}, do_sample=True, details=True)
    assert answer["generated_text"] in ("cats!", "dogs!")
    assert answer["details"]["finish_reason"] == "eos_token"


async def test_tokens_and_where_they_stand(running: Cluster, client: httpx.AsyncClient) -> None:
    answer = (await client.post("/tokenize", json={"inputs": "One dog – two."})).json()
    assert [token["id"] for token in answer] == running.inference.tokenize(None, "One dog – two.")
    assert answer[0] == {"id": 1, "text": "", "start": 0, "stop": 0}
    data = "One dog – two.".encode()
    for token in answer:
        assert data[token["start"] : token["stop"]].decode() == token["text"]
    assert max(token["stop"] for token in answer) == len(data)


async def test_what_lm_eval_asks_for(running: Cluster, client: httpx.AsyncClient) -> None:
    """As its remote tokenizer does it."""
    info = (await client.get("/tokenizer_info")).json()
    ids = (await client.post("/tokenize", json={"prompt": info["eos_token"], "add_special_tokens": False})).json()
    assert ids["tokens"] == [2]
    text = await client.post("/detokenize", json={"tokens": running.inference.tokenize(None, PROMPT)[1:]})
    assert text.json()["prompt"].strip() == PROMPT.strip()


# -- what else vLLM's clients may ask of a completion ------------------------------------------------------------------


async def completed(client: httpx.AsyncClient, **fields: object) -> Any:
    body = {"model": "stories260K", "prompt": PROMPT * 2, "temperature": 0, "max_tokens": 4, **fields}
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()["usage"]


async def test_a_salt_keeps_prompts_apart(client: httpx.AsyncClient) -> None:
    async def cached(**fields: object) -> int:
        found: int = (await completed(client, **fields))["prompt_tokens_details"]["cached_tokens"]
        return found

    assert await cached() == 0
    found = await cached()
    assert found > 0
    assert await cached(cache_salt="a") == 0
    assert await cached(cache_salt="b") == 0
    assert await cached(cache_salt="a") == found
    assert await cached() == found


async def test_a_prompt_can_be_truncated_and_go_without_special_tokens(client: httpx.AsyncClient) -> None:
    num_tokens = (await completed(client))["prompt_tokens"]
    assert (await completed(client, add_special_tokens=False))["prompt_tokens"] == num_tokens - 1
    assert (await completed(client, truncate_prompt_tokens=7))["prompt_tokens"] == 7
    assert (await completed(client, truncate_prompt_tokens=700))["prompt_tokens"] == num_tokens
    long = await completed(client, prompt=PROMPT * 100, truncate_prompt_tokens=9, truncation_side="left")
    assert long["prompt_tokens"] == 9
