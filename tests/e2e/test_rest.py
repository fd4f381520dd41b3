"""OpenAI's client against a real server with the demonstration model."""

from tests.e2e.clients import DEMO, http_client, openai_client, until_idle
from tests.e2e.server import Tandem

QUESTION = [{"role": "user", "content": "What is a KV cache?"}]


async def test_a_chat_is_the_same_streamed_and_whole(demo: Tandem) -> None:
    async with openai_client(demo) as client:
        assert [model.id async for model in client.models.list()] == [DEMO]
        options = {"model": DEMO, "messages": QUESTION, "temperature": 0.0, "max_tokens": 64}
        whole = await client.chat.completions.create(**options)  # type: ignore[call-overload]
        stream = await client.chat.completions.create(  # type: ignore[call-overload]
            **options, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]

    *pieces, last = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == whole.choices[0].message.content
    assert whole.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens


async def test_a_shared_beginning_is_computed_once(demo: Tandem) -> None:
    story = {"role": "system", "content": "You answer questions about serving language models. " * 8}
    cached = []
    async with openai_client(demo) as client:
        for question in ("What is a block?", "What is a ticket?", "What is a ticket?"):
            messages = [story, {"role": "user", "content": question}]
            answer = await client.chat.completions.create(model=DEMO, messages=messages, max_tokens=4)  # type: ignore[arg-type]
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            cached.append((answer.usage.prompt_tokens_details.cached_tokens or 0, answer.usage.prompt_tokens))
    (first, _), (other_question, tokens), (again, _) = cached
    assert first == 0
    assert 0 < other_question <= again < tokens


async def test_the_ledger_adds_up(demo: Tandem) -> None:
    async with http_client(demo, headers={"x-tandem-timing": "1"}) as http:
        body = {"model": DEMO, "messages": QUESTION, "max_tokens": 4}
        timing = (await http.post("/v1/chat/completions", json=body)).json()["timing"]
    assert abs(sum(timing["segments"].values()) - timing["ttft_ms"]) < 1


async def test_a_client_that_leaves_frees_everything(demo: Tandem) -> None:
    async with openai_client(demo) as client:
        stream = await client.completions.create(
            model=DEMO, prompt="Once", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
        )
        await anext(aiter(stream))
        await stream.close()
    await until_idle(demo, num_workers=2)


async def test_pages_of_the_server(demo: Tandem) -> None:
    async with http_client(demo) as http:
        for path in ("/health", "/ready", "/metrics", "/openapi.json", "/docs", "/v1/models", f"/v1/models/{DEMO}"):
            assert (await http.get(path)).status_code == 200, path
        paths = (await http.get("/openapi.json")).json()["paths"]
        assert {"/v1/chat/completions", "/v1/completions", "/v1/models"} <= paths.keys()
