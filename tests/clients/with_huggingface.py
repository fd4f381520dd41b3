"""Hugging Face's client, as of a TGI server: text generation in every form, and chat at the same address."""

import asyncio
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient, TextGenerationInputGrammarType
from huggingface_hub.errors import ValidationError
from served import ANSWER, HTTP, MODEL, QUESTION

PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def client() -> InferenceClient:
    return InferenceClient(HTTP, timeout=120)


def test_a_text(client: InferenceClient) -> None:
    assert client.text_generation(PROMPT, max_new_tokens=100) == ANSWER
    assert client.text_generation(PROMPT, max_new_tokens=100, return_full_text=True).endswith(ANSWER)
    seeded: Any = {"max_new_tokens": 10, "do_sample": True, "temperature": 1.5, "seed": 3}
    assert client.text_generation("Once", **seeded) == client.text_generation("Once", **seeded)


def test_details(client: InferenceClient) -> None:
    answer = client.text_generation(PROMPT, max_new_tokens=100, details=True, top_n_tokens=2)
    assert answer.details is not None
    assert (answer.generated_text, answer.details.finish_reason) == (ANSWER, "eos_token")
    assert answer.details.generated_tokens == len(answer.details.tokens)
    several = client.text_generation("Once", max_new_tokens=5, details=True, best_of=3, do_sample=True)
    assert several.details is not None
    assert len(several.details.best_of_sequences or []) == 2
    stopped = client.text_generation(PROMPT, max_new_tokens=100, stop=["phase"], details=True)
    assert stopped.details is not None
    assert stopped.details.finish_reason == "stop_sequence"
    assert stopped.generated_text == ANSWER[: ANSWER.index("phase") + len("phase")]


def test_streams(client: InferenceClient) -> None:
    texts = list(client.text_generation(PROMPT, max_new_tokens=100, stream=True))
    assert "".join(texts) == f"{ANSWER}<|im_end|>", "as TGI's, with the text of the token that ends it"
    events = list(client.text_generation(PROMPT, max_new_tokens=100, stream=True, details=True))
    assert events[-1].generated_text == ANSWER
    assert events[-1].details is not None
    assert events[-1].details.finish_reason == "eos_token"


def test_a_grammar(client: InferenceClient) -> None:
    grammar = TextGenerationInputGrammarType(type="regex", value="[ab]{3}")
    assert set(client.text_generation("Once", max_new_tokens=10, grammar=grammar)) <= {"a", "b"}


def test_chat(client: InferenceClient) -> None:
    asked: Any = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "extra_body": {"model": MODEL}}
    answer = client.chat_completion(**asked)
    assert answer.choices[0].message.content == ANSWER
    parts = [
        part.choices[0].delta.content or "" for part in client.chat_completion(**asked, stream=True) if part.choices
    ]
    assert "".join(parts) == ANSWER


def test_what_is_wrong_is_said(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        client.text_generation("x", temperature=-1.0)
    with pytest.raises(ValidationError, match="watermark"):
        client.text_generation("x", watermark=True)


async def _asked() -> str:
    async with AsyncInferenceClient(HTTP) as client:
        return await client.text_generation(PROMPT, max_new_tokens=100)


def test_asyncio() -> None:
    assert asyncio.run(_asked()) == ANSWER
