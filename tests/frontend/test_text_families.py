"""Which parsers the known templates want, and that they read what the templates write."""

import os.path
from datetime import datetime
from typing import get_args

import pytest

from frontend.config import FrontendConfig
from frontend.text.parsers.events import CallArguments, CallBegun, Content
from frontend.text.parsers.families import Families, ReasoningFamily, ToolFamily, takes_tools
from frontend.text.template import ChatTemplate
from tests.shared_data import shared_data

FAMILIES = {
    "Qwen-Qwen2.5-7B-Instruct": ToolFamily.HERMES,
    "Qwen3-Coder-30B-A3B-Instruct": ToolFamily.QWEN3_CODER,
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": ToolFamily.HERMES,
    "meta-llama-Llama-3.1-8B-Instruct": ToolFamily.LLAMA3,
    "meta-llama-Llama-3.2-3B-Instruct": ToolFamily.LLAMA3,
    "mistralai-Mistral-Nemo-Instruct-2407": ToolFamily.MISTRAL,
}
ARGUMENTS = {"city": "Paris", "unit": "C"}
PARAMETERS = {"type": "object", "properties": {name: {"type": "string", "description": name} for name in ARGUMENTS}}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": PARAMETERS}}
CALL = {"id": "abc123def", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}
QUESTION = {"role": "user", "content": "Weather in Paris?"}


def source(name: str) -> str:
    return (shared_data("chat_templates") / f"{name}.jinja").read_text(encoding="utf-8")


def test_every_known_template() -> None:
    names = [path.stem for path in shared_data("chat_templates").glob("*.jinja")]
    assert len(names) == 17
    found = {name: Families.of(source(name)) for name in names}
    assert {name: families.tools for name, families in found.items() if families.tools} == FAMILIES
    reasoning = {name for name, families in found.items() if families.reasoning}
    assert reasoning == {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B"}
    assert found["deepseek-ai-DeepSeek-R1-Distill-Llama-8B"].reasoning is ReasoningFamily.THINK
    assert {name for name in names if takes_tools(source(name))} == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_calls_are_read_as_the_template_writes_them(name: str) -> None:
    template = ChatTemplate({"default": source(name)}, {"eos_token": "</s>"}, now=lambda: datetime(2024, 7, 26))
    assert not template.wants_text_arguments
    asked = template.render([QUESTION], tools=[TOOL])
    answered = template.render(
        [QUESTION, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
        tools=[TOOL],
        add_generation_prompt=False,
    )
    said = answered[len(os.path.commonprefix([asked, answered])) :]
    for end in ("<|im_end|>", "<|eot_id|>", "</s>"):
        said = said.partition(end)[0]
    parser = Families.of(source(name)).parser([TOOL], asked[-20:])
    assert parser is not None
    begun, *arguments, _ = [*parser.push(said), *parser.finish()]
    assert isinstance(begun, CallBegun)
    assert begun.name == "get_weather"
    joined = "".join(event.text for event in arguments if isinstance(event, CallArguments))
    assert joined == '{"city": "Paris", "unit": "C"}'


def test_a_template_that_wants_the_text_of_arguments() -> None:
    template = ChatTemplate({"default": source("deepseek-ai-DeepSeek-R1-Distill-Llama-8B")}, {"bos_token": ""})
    assert template.wants_text_arguments


def test_reasoning_that_the_prompt_opens() -> None:
    name = "deepseek-ai-DeepSeek-R1-Distill-Llama-8B"
    prompt = ChatTemplate({"default": source(name)}, {"bos_token": ""}).render([QUESTION])
    parser = Families.of(source(name)).parser((), prompt)
    assert parser is not None
    assert parser.thinking
    assert parser.push("Hm.</think>\n\nSunny.")[-1] == Content("Sunny.")
    assert not parser.thinking


def test_what_the_operator_names_comes_before_the_template() -> None:
    assert Families.of("<tool_call> <think>", "none", "none") == Families()
    assert Families.of("<tool_call>", "mistral", "think") == Families(ToolFamily.MISTRAL, ReasoningFamily.THINK)
    assert Families.of("{{ tools }}").tools is ToolFamily.JSON
    assert Families.of("[THINK]").reasoning is ReasoningFamily.MISTRAL
    with pytest.raises(ValueError, match="unknown"):
        Families.of("", "unknown")


def test_templates_by_their_markers() -> None:
    for text, family in (
        ("tools <｜tool▁calls▁begin｜>", ToolFamily.DEEPSEEK),
        ("tools [TOOL_CALLS] <tool_call>", ToolFamily.MISTRAL),
        ("tools <tool_call> <function= <parameter=", ToolFamily.QWEN3_CODER),
        ("tools <tool_call>", ToolFamily.HERMES),
        ("tools <|start_header_id|>", ToolFamily.LLAMA3),
        ("tools", ToolFamily.JSON),
        ("<tool_call> toolset", None),
    ):
        assert Families.of(text).tools is family


def test_operators_can_name_every_family() -> None:
    fields = FrontendConfig.model_fields
    assert get_args(fields["tool_parser"].annotation) == ("auto", "none", *ToolFamily)
    assert get_args(fields["reasoning_parser"].annotation) == ("auto", "none", *ReasoningFamily)
