"""Hugging Face's own client against the app: what it sends is taken, and what it gets it understands."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from huggingface_hub import AsyncInferenceClient, TextGenerationInputGrammarType, TextGenerationStreamOutput
from huggingface_hub.errors import GenerationError, OverloadedError, ValidationError
from huggingface_hub.utils import set_async_client_factory
from huggingface_hub.utils._http import default_async_client_factory

from engine.errors import Overloaded, Unavailable
from frontend.callers import KeyRing
from frontend.events import Delta
from frontend.request import Grammar, GrammarKind
from frontend.rest.app import build_app
from tests.frontend.fake_inference import MODEL, FakeInference, logprobs_of, say


@pytest.fixture
def inference() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def client(inference: FakeInference) -> AsyncIterator[AsyncInferenceClient]:
    app = build_app(inference, keys=KeyRing("key"), max_body_bytes=1 << 20, metrics=lambda: b"")
    set_async_client_factory(lambda: httpx2.AsyncClient(transport=httpx2.ASGITransport(app)))
    try:
        async with AsyncInferenceClient("http://test", provider="hf-inference", token="key") as client:
            yield client
    finally:
        set_async_client_factory(default_async_client_factory)


async def test_an_answer(client: AsyncInferenceClient, inference: FakeInference) -> None:
    assert await client.text_generation("hi", max_new_tokens=20, stop=["x"], temperature=0.5, seed=3) == "Hello!"
    request = inference.requests[-1]
    assert (request.prompt, request.max_tokens, request.stop, request.seed) == ("hi", 20, ("x",), 3)


async def test_details(client: AsyncInferenceClient) -> None:
    answer = await client.text_generation("hi", details=True, best_of=2, do_sample=True, top_n_tokens=2)
    assert answer.generated_text == "Hello!"
    details = answer.details
    assert details is not None
    assert (details.finish_reason, details.generated_tokens, details.prefill) == ("eos_token", 6, [])
    assert [token.text for token in details.tokens] == list("Hello!")
    top: Any = details.top_tokens  # which the client leaves as they came
    assert [token["text"] for token in top[0]] == ["H", "I"]
    assert details.best_of_sequences is not None
    assert [other.generated_text for other in details.best_of_sequences] == ["Hello!"]


async def test_a_stream(client: AsyncInferenceClient) -> None:
    texts = [text async for text in await client.text_generation("hi", stream=True)]
    assert texts == list("Hello!")


async def test_a_stream_with_details(client: AsyncInferenceClient) -> None:
    stream = await client.text_generation("hi", stream=True, details=True, max_new_tokens=6)
    events = [event async for event in stream]
    assert all(isinstance(event, TextGenerationStreamOutput) for event in events)
    assert [event.index for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[-1].generated_text == "Hello!"
    assert events[-1].details is not None
    assert events[-1].details.generated_tokens == 6
    assert events[-1].details.input_length == 2
    assert events[0].details is None


async def test_a_grammar(client: AsyncInferenceClient, inference: FakeInference) -> None:
    grammar = TextGenerationInputGrammarType(type="regex", value="a+")
    await client.text_generation("hi", grammar=grammar)
    assert inference.requests[-1].grammar == Grammar(GrammarKind.REGEX, "a+")


async def test_errors_become_the_exceptions_of_the_client(
    client: AsyncInferenceClient, inference: FakeInference
) -> None:
    with pytest.raises(ValidationError, match="watermark"):
        await client.text_generation("hi", watermark=True)
    with pytest.raises(ValidationError, match="best_of"):
        await client.text_generation("hi", best_of=3)
    inference.scripts = [[Overloaded("full", retry_after_s=1)], [Unavailable("gone")]]
    with pytest.raises(OverloadedError, match="full"):
        await client.text_generation("hi")
    with pytest.raises(GenerationError, match="gone"):
        await client.text_generation("hi")


async def test_a_broken_stream_raises(client: AsyncInferenceClient, inference: FakeInference) -> None:
    inference.script = [Delta("p", (112,), 0, (logprobs_of(112),)), Unavailable("the worker is gone")]
    stream = await client.text_generation("hi", stream=True)
    with pytest.raises(GenerationError, match="the worker is gone"):
        async for _ in stream:
            pass


async def test_what_the_client_asks_of_the_server(client: AsyncInferenceClient) -> None:
    assert (await client.get_endpoint_info())["model_id"] == MODEL
    assert await client.health_check()


async def test_chat_goes_to_openais_paths(client: AsyncInferenceClient, inference: FakeInference) -> None:
    inference.script = say("Hello")
    question = [{"role": "user", "content": "hi"}]
    answer = await client.chat_completion(question, max_tokens=5, extra_body={"model": MODEL})  # "dummy" by itself
    assert answer.choices[0].message.content == "Hello"
