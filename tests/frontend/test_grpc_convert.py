import math
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.rpc.error_details_pb2 import BadRequest

from engine.errors import InvalidRequest
from frontend.events import PromptLogprobs, PromptToken, TokenLogprob
from frontend.grpc_convert import field_path, generate_request
from frontend.request import Chat, GenerateRequest, Infill, TokenPrompt
from protos import generate_pb2 as pb
from tests.frontend.test_grpc_service import ANSWER, STARTED, FakeInference, details, generate, served


@pytest.mark.parametrize(
    ("message", "prompt"),
    [
        (pb.GenerateRequest(text=""), ""),
        (pb.GenerateRequest(text="héllo"), "héllo"),
        (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5, 0, 99])), TokenPrompt((5, 0, 99))),
        (pb.GenerateRequest(token_ids=pb.TokenIds()), TokenPrompt(())),
        (
            pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])),
            Chat(({"role": "user", "content": "hi"},)),
        ),
        (pb.GenerateRequest(chat=pb.Chat(add_generation_prompt=False)), Chat((), add_generation_prompt=False)),
        (pb.GenerateRequest(infill=pb.Infill(prefix="a", suffix="b")), Infill("a", "b")),
    ],
)
async def test_every_kind_of_prompt_arrives(message: pb.GenerateRequest, prompt: object) -> None:
    inference = FakeInference()
    async with served(inference) as server:
        await generate(server, message)

    assert inference.requests[0].prompt == prompt


def test_what_is_not_given_is_none() -> None:
    assert generate_request(pb.GenerateRequest(text="hi"), {}, None) == GenerateRequest(prompt="hi")
    assert generate_request(pb.GenerateRequest(text="hi", model="m"), {}, 2.0) == GenerateRequest(
        prompt="hi", model="m", deadline_s=2.0
    )


@pytest.mark.parametrize("group", ["sampling", "stopping", "output"])
@pytest.mark.parametrize("zero", [True, False], ids=["zero", "value"])
def test_every_field_of_the_message_is_carried(group: str, zero: bool) -> None:
    samples = {FieldDescriptor.TYPE_FLOAT: 0.5, FieldDescriptor.TYPE_BOOL: True, FieldDescriptor.TYPE_STRING: "x"}
    part_type = pb.GenerateRequest.DESCRIPTOR.fields_by_name[group].message_type
    assert part_type is not None
    for descriptor in part_type.fields:
        message = pb.GenerateRequest(text="hi")
        part, name = getattr(message, group), descriptor.name
        sample = type(samples.get(descriptor.type, 7))() if zero else samples.get(descriptor.type, 7)
        if name == "logit_bias":
            part.logit_bias[3], sample = 1.5, {3: 1.5}
        elif descriptor.is_repeated:
            getattr(part, name).append(sample)
            sample = (sample,)
        else:
            setattr(part, name, sample)

        known = "tell_prompt" if name == "prompt_token_ids" else name
        assert getattr(generate_request(message, {}, None), known) == sample, name
        assert field_path(known) == f"{group}.{name}"


def test_what_is_said_of_the_prompt_beside_it_is_carried() -> None:
    assert generate_request(
        pb.GenerateRequest(text="hi", add_special_tokens=False, truncate_prompt_tokens=5, cache_salt="s"), {}, None
    ) == GenerateRequest(prompt="hi", add_special_tokens=False, truncate_prompt=5, cache_salt="s")
    assert field_path("truncate_prompt") == "truncate_prompt_tokens"


def test_json_may_be_of_the_content_alone() -> None:
    def request(**fields: object) -> GenerateRequest:
        content_only = pb.Grammar(content_only=True, **fields)  # type: ignore[arg-type]
        chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
        return generate_request(pb.GenerateRequest(chat=chat, grammar=content_only), {}, None)

    assert request(json_schema="{}").format_only
    assert request(json_object=pb.JsonObject()).format_only
    of_text = pb.GenerateRequest(text="hi", grammar=pb.Grammar(json_schema="{}", content_only=True))
    for wrong in (lambda: request(regex="a"), lambda: generate_request(of_text, {}, None)):
        with pytest.raises(InvalidRequest) as raised:
            wrong()
        assert raised.value.field == "grammar.content_only"


async def test_how_likely_a_prompt_is_comes_in_parts() -> None:
    tokens = (
        PromptToken(5, b"a"),
        *(PromptToken(6, b"\xff", -1.5, 2, (TokenLogprob(7, -0.5, b"b"),)) for _ in range(9000)),
    )
    started = replace(STARTED, prompt_ids=(5, 6))
    inference = FakeInference((started, PromptLogprobs(tokens), *ANSWER[1:]))
    async with served(inference) as server:
        first, *parts = await generate(server, pb.GenerateRequest(text="hi"))
    assert first.started.prompt_token_ids == [5, 6]
    told = [part.prompt_logprobs for part in parts if part.WhichOneof("event") == "prompt_logprobs"]
    assert [(part.first_index, len(part.tokens)) for part in told] == [(0, 8192), (8192, 809)]
    assert not told[0].tokens[0].HasField("logprob")
    last = told[1].tokens[-1]
    assert (last.token_id, last.token, last.logprob, last.rank) == (6, b"\xff", -1.5, 2)
    assert [(other.token_id, other.logprob, other.token) for other in last.top] == [(7, -0.5, b"b")]
    assert [part.WhichOneof("event") for part in parts[2:]] == ["delta", "delta", "finished"]


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (pb.GenerateRequest(sampling=pb.Sampling(temperature=math.nan)), "sampling.temperature"),
        (pb.GenerateRequest(sampling=pb.Sampling(top_p=math.inf)), "sampling.top_p"),
        (pb.GenerateRequest(sampling=pb.Sampling(repetition_penalty=0)), "sampling.repetition_penalty"),
        (pb.GenerateRequest(sampling=pb.Sampling(logit_bias={100: 1})), "sampling.logit_bias"),
        (pb.GenerateRequest(sampling=pb.Sampling(top_k=-2)), "sampling.top_k"),
        (pb.GenerateRequest(stopping=pb.Stopping(max_tokens=0)), "stopping.max_tokens"),
        (pb.GenerateRequest(stopping=pb.Stopping(max_tokens=-(2**31))), "stopping.max_tokens"),
        (pb.GenerateRequest(stopping=pb.Stopping(stop=[""])), "stopping.stop"),
        (pb.GenerateRequest(stopping=pb.Stopping(stop_token_ids=[-1])), "stopping.stop_token_ids"),
        (pb.GenerateRequest(output=pb.Output(logprobs=21)), "output.logprobs"),
        (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[100])), "prompt"),
        (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[-1])), "prompt"),
        (pb.GenerateRequest(sampling=pb.Sampling(temperature=1)), "prompt"),
    ],
)
async def test_a_bad_field_is_named_by_its_path(message: pb.GenerateRequest, name: str) -> None:
    if name != "prompt":
        message.text = "hi"
    async with served(FakeInference()) as server:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await generate(server, message)

        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in details(failure.value, BadRequest).field_violations] == [name]
        assert len(await generate(server)) == 4
