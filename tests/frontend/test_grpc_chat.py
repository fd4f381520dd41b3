"""Conversations over gRPC: tools, calls and reasoning, in requests and in answers."""

import json

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest

from engine.errors import InvalidRequest
from frontend.events import CallDelta, Delta, Finish, Finished, Usage
from frontend.grpc_chat import chat
from frontend.grpc_convert import field_path, fill
from frontend.request import Chat
from frontend.tools import NO_TOOLS
from protos import generate_pb2 as pb
from tests.frontend.test_grpc_service import STARTED, TIMING, FakeInference, details, generate, served

SCHEMA = '{"type": "object", "properties": {"b": {"type": "string"}, "a": {}}}'
TOOL = pb.Tool(name="f", description="Does.", parameters=SCHEMA)
CALL = pb.ToolCall(id="c1", name="f", arguments='{"b": 1, "a": 2.0}')


def test_tools_keep_the_order_of_their_keys() -> None:
    asked = chat(pb.Chat(tools=[TOOL, pb.Tool(name="g")]))
    full, bare = asked.tools
    function = {"name": "f", "description": "Does.", "parameters": json.loads(SCHEMA)}
    assert json.dumps(full) == json.dumps({"type": "function", "function": function})
    assert bare == {"type": "function", "function": {"name": "g"}}
    none = pb.ToolChoice(mode=pb.TOOL_MODE_NONE)
    assert chat(pb.Chat(tools=[TOOL], tool_choice=none)).tool_choice == NO_TOOLS
    assert not chat(pb.Chat(parallel_tool_calls=False)).parallel_tool_calls
    assert chat(pb.Chat()) == Chat(())


def test_messages_with_calls() -> None:
    messages = [
        pb.ChatMessage(role="assistant", tool_calls=[CALL, pb.ToolCall(id="c2", name="g")], reasoning="hm"),
        pb.ChatMessage(role="tool", content="5", tool_call_id="c1", name="f"),
    ]
    assert chat(pb.Chat(messages=messages)).messages == (
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "reasoning": "hm",
            "thinking": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2.0}}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "5", "name": "f", "tool_call_id": "c1"},
    )


def test_what_the_template_is_told_besides() -> None:
    asked = chat(
        pb.Chat(documents=['{"title": "a"}'], template_kwargs={"enable_thinking": "false"}, continue_final_message=True)
    )
    assert asked.documents == ({"title": "a"},)
    assert asked.reasoning_effort is None
    assert chat(pb.Chat(reasoning_effort="low")).reasoning_effort == "low"
    strict = chat(pb.Chat(tools=[TOOL, pb.Tool(name="g", strict=True), pb.Tool(name="h", strict=False)]))
    assert strict.strict_tools == {"g"}
    with pytest.raises(InvalidRequest) as raised:
        chat(pb.Chat(reasoning_effort="much"))
    assert raised.value.field == "chat.reasoning_effort"
    assert asked.template_kwargs == {"enable_thinking": False}
    assert (asked.continue_final_message, asked.add_generation_prompt) == (True, False)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (pb.Chat(tools=[pb.Tool(name="a b")]), "chat.tools"),
        (pb.Chat(tools=[pb.Tool(name="a", parameters="[]")]), "chat.tools[0].parameters"),
        (pb.Chat(tools=[pb.Tool(name="a", parameters="{")]), "chat.tools[0].parameters"),
        (pb.Chat(tools=[TOOL] * 257), "chat.tools"),
        (
            pb.Chat(tools=[TOOL], tool_choice=pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED, name="other")),
            "chat.tool_choice",
        ),
        (pb.Chat(tool_choice=pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED)), "chat.tool_choice"),
        (pb.Chat(tools=[TOOL], tool_choice=pb.ToolChoice(name="f")), "chat.tool_choice.name"),
        (pb.Chat(tools=[TOOL], tool_choice=pb.ToolChoice(mode=99)), "chat.tool_choice.mode"),
        (pb.Chat(documents=["5"]), "chat.documents[0]"),
        (pb.Chat(documents=["{}"] * 1025), "chat.documents"),
        (pb.Chat(template_kwargs={"a": "x"}), "chat.template_kwargs"),
        (pb.Chat(template_kwargs={str(i): "1" for i in range(65)}), "chat.template_kwargs"),
        (pb.Chat(continue_final_message=True, add_generation_prompt=True), "chat.continue_final_message"),
        (
            pb.Chat(messages=[pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(arguments="5")])]),
            "chat.messages[0].tool_calls[0].arguments",
        ),
        (
            pb.Chat(messages=[pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(arguments="[" * 100_000)])]),
            "chat.messages[0].tool_calls[0].arguments",
        ),
    ],
)
async def test_what_is_wrong_is_named_by_its_path(message: pb.Chat, name: str) -> None:
    async with served(FakeInference()) as server:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await generate(server, pb.GenerateRequest(chat=message))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in details(failure.value, BadRequest).field_violations] == [name]


@pytest.mark.parametrize("field", ["tools", "tool_choice", "template_kwargs", "messages", "continue_final_message"])
def test_what_the_model_refuses_is_named_by_its_path(field: str) -> None:
    assert field_path(field) == f"chat.{field}"


async def test_answers_with_reasoning_and_calls() -> None:
    calls = (CallDelta(0, '{"a"', "c1", "f"), CallDelta(0, ": 1}"), CallDelta(1, "", "c2", "g"))
    finished = Finished(Finish.TOOL_CALLS, None, Usage(3, 3, 1, 2), TIMING)
    script = (STARTED, Delta("", (1,), 0, (), "Hm."), Delta("Yes.", (2, 3), 1, (), "", calls), finished)
    async with served(FakeInference(script)) as server:
        _, thought, called, end = await generate(server)
    assert (thought.delta.text, thought.delta.reasoning) == ("", "Hm.")
    assert called.delta.text == "Yes."
    first, more, bare = called.delta.tool_calls
    assert (first.index, first.id, first.name, first.arguments) == (0, "c1", "f", '{"a"')
    assert (more.index, more.HasField("id"), more.HasField("name"), more.arguments) == (0, False, False, ": 1}")
    assert (bare.index, bare.id, bare.arguments) == (1, "c2", "")
    assert end.finished.reason == pb.FINISH_REASON_TOOL_CALLS
    assert end.finished.usage.reasoning_tokens == 2


def test_what_is_not_known_is_absent() -> None:
    response = pb.GenerateResponse()
    fill(response, Finished(Finish.STOP, None, Usage(1, 1, 0), TIMING))
    assert not response.finished.usage.HasField("reasoning_tokens")
    response.Clear()
    fill(response, Delta("a", (1,), 0))
    assert not response.delta.tool_calls
    assert response.delta.reasoning == ""


def test_a_call_may_be_demanded() -> None:
    required = chat(pb.Chat(tools=[TOOL], tool_choice=pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED)))
    assert required.demanded == required.offered != ()
    named = pb.ToolChoice(mode=pb.TOOL_MODE_REQUIRED, name="f")
    asked = chat(pb.Chat(tools=[TOOL, pb.Tool(name="g")], tool_choice=named))
    assert asked.demanded == asked.offered[:1]
    assert not chat(pb.Chat(tools=[TOOL])).demanded


@pytest.mark.parametrize("mode", [pb.TOOL_MODE_UNSPECIFIED, pb.TOOL_MODE_AUTO])
def test_auto_is_the_default(mode: "pb.ToolMode") -> None:
    assert chat(pb.Chat(tools=[TOOL], tool_choice=pb.ToolChoice(mode=mode))).offered
