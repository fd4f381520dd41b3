"""Options become fields; every field of an answer's request has an option."""

import pytest

from tandem_client import ChatOptions, Options, chat, infill, json_schema, pb, text, tokens
from tandem_client.requests import conversation, embedding, tokenizing


def fields(message: type) -> set[str]:
    return set(message.DESCRIPTOR.fields_by_name)  # type: ignore[attr-defined] # generated


def test_every_field_can_be_asked_for() -> None:
    parts = {"text", "token_ids", "chat", "infill", "sampling", "stopping", "output", "resume_grace_ms"}
    options = fields(pb.GenerateRequest) - parts | {"resume_grace_s"}
    options |= fields(pb.Sampling) | fields(pb.Stopping) | fields(pb.Output)
    assert set(Options.__annotations__) == options
    assert set(ChatOptions.__annotations__) == options | fields(pb.Chat) - {"messages"}


def test_what_stands_between_two_texts_is_asked_for() -> None:
    request = infill("def f(", "return 1", max_tokens=3, prompt_logprobs=2, cache_salt="s", resume_grace_s=0)
    assert request == pb.GenerateRequest(
        infill=pb.Infill(prefix="def f(", suffix="return 1"),
        stopping=pb.Stopping(max_tokens=3),
        output=pb.Output(prompt_logprobs=2),
        cache_salt="s",
        resume_grace_ms=0,
    )


def test_options_find_their_place() -> None:
    request = chat(
        "hi", model="m", temperature=0, logit_bias={3: -1.5}, max_tokens=5, stop=["a", "b"], logprobs=0,
        grammar=json_schema("{}"), tools=[pb.Tool(name="f")], template_kwargs={"k": "1"}, resume_grace_s=1.5,
    )  # fmt: skip
    assert request == pb.GenerateRequest(
        model="m",
        chat=pb.Chat(
            messages=[pb.ChatMessage(role="user", content="hi")],
            tools=[pb.Tool(name="f")],
            template_kwargs={"k": "1"},
        ),
        sampling=pb.Sampling(temperature=0, logit_bias={3: -1.5}),
        stopping=pb.Stopping(max_tokens=5, stop=["a", "b"]),
        output=pb.Output(logprobs=0),
        grammar=pb.Grammar(json_schema="{}"),
        resume_grace_ms=1500,
    )


def test_what_is_not_given_is_not_there() -> None:
    request = tokens([1, 2])
    assert request == pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 2]), resume_grace_ms=10_000)
    assert text("x", resume_grace_s=0).resume_grace_ms == 0
    assert not request.HasField("sampling")


def test_what_nobody_knows_is_refused() -> None:
    with pytest.raises(TypeError, match="no such option: temprature"):
        text("x", temprature=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no such option: tools"):
        text("x", tools=[])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no such option: text"):
        chat("x", text="y")  # type: ignore[call-arg]


def test_conversations() -> None:
    said = pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(id="1", name="f", arguments="{}")])
    assert conversation([{"role": "system", "content": "be brief"}, said]).messages == [
        pb.ChatMessage(role="system", content="be brief"),
        said,
    ]


def test_inputs_of_other_calls() -> None:
    assert embedding("a", "m", pb.POOLING_LAST, False) == pb.EmbedRequest(
        model="m", text="a", pooling=pb.POOLING_LAST, normalize=False
    )
    assert embedding([1], "", pb.POOLING_UNSPECIFIED, None) == pb.EmbedRequest(token_ids=pb.TokenIds(ids=[1]))
    assert tokenizing("a", "", None) == pb.TokenizeRequest(text="a")
    asked = tokenizing([{"role": "user", "content": "a"}], "m", None)
    assert asked == pb.TokenizeRequest(model="m", chat=conversation("a"))
