"""Log-probabilities of prompts in OpenAI's, vLLM's and TGI's answers, over real workers, against transformers."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import httpx2
import pytest
import torch
from openai import AsyncOpenAI

from frontend.callers import KeyRing
from frontend.rest.app import build_app
from tests.cluster import Cluster, cluster
from tests.frontend.test_rest_app import rest_client
from tests.reference import load_reference, reference_logits
from tests.shared_data import shared_data

MODEL = ("models", "stories260K")
NAME = MODEL[1]
TEXT = "Once upon a time there was a little girl who had a red ball."


@pytest.fixture(scope="module")
def reference() -> Any:
    return load_reference(shared_data(*MODEL))


@pytest.fixture
async def running() -> AsyncIterator[Cluster]:
    async with cluster(shared_data(*MODEL), worker={"max_step_tokens": 9}) as running:
        yield running


@pytest.fixture
async def client(running: Cluster) -> AsyncIterator[AsyncOpenAI]:
    app = build_app(running.inference, keys=KeyRing("key"), max_body_bytes=1 << 20, metrics=lambda: b"")  # type: ignore[arg-type]
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))
    async with AsyncOpenAI(api_key="key", base_url="http://test/v1", http_client=http_client, max_retries=0) as client:
        yield client


@pytest.fixture
async def http(running: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with rest_client(running.inference) as http:  # type: ignore[arg-type]
        yield http


def expected(reference: Any, ids: list[int]) -> torch.Tensor:
    """Of each position."""
    return reference_logits(reference, ids).double().log_softmax(-1)


def of_tokens(reference: Any, ids: list[int]) -> list[float]:
    """Of each token but the first."""
    return expected(reference, ids)[range(len(ids) - 1), ids[1:]].tolist()  # type: ignore[no-any-return]


async def test_an_evaluation_harness_scores_continuations(
    client: AsyncOpenAI, running: Cluster, reference: Any
) -> None:
    """As lm-eval does: context and continuation in tokens, echo, one token that is not wanted."""
    contexts, continuations = ["Once upon a time", "The big dog"], [" there was a girl", " ball red the"]
    encoded = [running.inference.tokenize(None, text) for text in contexts]
    whole = [
        ids + running.inference.tokenize(None, text, add_special_tokens=False)
        for ids, text in zip(encoded, continuations, strict=True)
    ]
    answer = await client.completions.create(
        model=NAME, prompt=whole, echo=True, max_tokens=1, logprobs=1, temperature=0, seed=1234
    )
    for choice, context, ids in zip(answer.choices, encoded, whole, strict=True):
        assert choice.logprobs is not None
        logprobs, top = choice.logprobs.token_logprobs, choice.logprobs.top_logprobs
        assert logprobs is not None
        assert top is not None
        begin = len(context)
        made = [logprob for logprob in logprobs[begin:-1] if logprob is not None]
        assert made == pytest.approx(of_tokens(reference, ids)[begin - 1 :], abs=1e-3)
        likeliest = [logprob == max(places.values()) for logprob, places in zip(made, top[begin:-1], strict=True)]
        best = expected(reference, ids)[begin - 1 : -1].argmax(-1).tolist()
        assert likeliest == [token == right for token, right in zip(ids[begin:], best, strict=True)]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


async def test_a_prompt_is_scored_and_nothing_else(client: AsyncOpenAI, running: Cluster, reference: Any) -> None:
    ids = running.inference.tokenize(None, TEXT)
    answer = await client.completions.create(model=NAME, prompt=TEXT, echo=True, max_tokens=0, logprobs=2)
    (choice,), usage = answer.choices, answer.usage
    assert (choice.text, choice.finish_reason) == (TEXT, "length")
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(of_tokens(reference, ids), abs=1e-3)
    assert len(choice.logprobs.tokens or ()) == len(ids)
    offsets = choice.logprobs.text_offset
    assert offsets is not None
    texts = [TEXT[begin:end] for begin, end in zip(offsets, [*offsets[1:], len(TEXT)], strict=True)]
    assert texts[0] == "", "the token that texts begin with is not in the text"
    assert [text.strip() for text in texts[1:]] == [token.strip() for token in (choice.logprobs.tokens or ())[1:]]
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(ids), 0)
    bare = await client.completions.create(model=NAME, prompt=TEXT, echo=True, max_tokens=0)
    assert (bare.choices[0].text, bare.choices[0].logprobs) == (TEXT, None)
    assert "prompt_token_ids" not in (bare.choices[0].model_extra or {})


async def test_a_stream_begins_with_its_prompt(client: AsyncOpenAI) -> None:
    fields: dict[str, Any] = {"model": NAME, "prompt": TEXT, "echo": True, "logprobs": 1, "temperature": 0, "n": 2}
    whole = await client.completions.create(**fields, max_tokens=5)
    stream = await client.completions.create(**fields, max_tokens=5, stream=True)
    texts: list[list[str]] = [[], []]
    columns: list[dict[str, list[Any]]] = [{}, {}]
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index].append(choice.text)
            for name, values in (choice.logprobs.model_dump() if choice.logprobs else {}).items():
                columns[choice.index].setdefault(name, []).extend(values)
    for choice, parts, made in zip(whole.choices, texts, columns, strict=True):
        assert parts[0] == TEXT
        assert "".join(parts) == choice.text
        assert choice.logprobs is not None
        told = choice.logprobs.model_dump()
        assert (made["tokens"], made["text_offset"]) == (told["tokens"], told["text_offset"])
        assert made["token_logprobs"][1:] == pytest.approx(told["token_logprobs"][1:], abs=1e-4)
        assert [top and top.keys() for top in made["top_logprobs"]] == [
            top and top.keys() for top in told["top_logprobs"]
        ]
    scored = await client.completions.create(**fields, max_tokens=0, stream=True)
    ends = [(choice.index, choice.text, choice.finish_reason) async for chunk in scored for choice in chunk.choices]
    assert sorted(ends, key=lambda end: (end[0], end[2] or "")) == [
        (0, TEXT, None),
        (0, "", "length"),
        (1, TEXT, None),
        (1, "", "length"),
    ]


async def test_as_vllm_tells_them(client: AsyncOpenAI, running: Cluster, reference: Any) -> None:
    ids = running.inference.tokenize(None, TEXT)
    answer = await client.completions.create(
        model=NAME, prompt=TEXT, max_tokens=2, n=2, extra_body={"prompt_logprobs": 2}
    )
    first, second = (choice.model_extra["prompt_logprobs"] for choice in answer.choices)  # type: ignore[index]
    assert first == second
    assert first[0] is None
    rows = expected(reference, ids)
    for place, (token, told) in enumerate(zip(ids[1:], first[1:], strict=True)):
        own, *others = told.items()
        assert own[0] == str(token)
        assert own[1]["logprob"] == pytest.approx(float(rows[place][token]), abs=1e-3)
        best = rows[place].topk(2)
        if own[1]["rank"] > 2:
            assert [each["rank"] for _, each in others] == [1, 2]
        wanted = dict(zip(map(str, best.indices.tolist()), best.values.tolist(), strict=True))
        for other, value in wanted.items():
            assert told[other]["logprob"] == pytest.approx(value, abs=1e-3)
        assert own[1]["decoded_token"] == running.inference.token_bytes(None, token).decode()


async def test_as_tgi_tells_them(http: httpx.AsyncClient, running: Cluster, reference: Any) -> None:
    ids = running.inference.tokenize(None, TEXT)
    parameters = {"max_new_tokens": 3, "decoder_input_details": True}
    response = await http.post("/generate", json={"inputs": TEXT, "parameters": parameters})
    assert response.status_code == 200, response.text
    details = response.json()["details"]
    assert [token["id"] for token in details["prefill"]] == ids
    assert details["prefill"][0]["logprob"] is None
    assert [token["logprob"] for token in details["prefill"][1:]] == pytest.approx(of_tokens(reference, ids), abs=1e-3)
    assert "".join(token["text"] for token in details["prefill"]) == f"<s> {TEXT}"
    assert len(details["tokens"]) == 3
