"""Calls that must be made: their grammar lets through what each family writes, its parser reads all that it makes, and
real workers keep to it."""

import asyncio
import json
import os.path
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engine.errors import InvalidRequest, Unsupported
from engine.grammar import Grammars
from engine.hub import DEMO_MODEL
from frontend.events import Finish
from frontend.forced import calls_grammar
from frontend.grammar import GrammarCompiler
from frontend.request import Chat, GenerateRequest, Grammar, GrammarKind
from frontend.text.parsers.events import CallArguments, CallBegun, Content, Event, Reasoning
from frontend.text.parsers.families import Families
from frontend.text.template import ChatTemplate
from frontend.tools import AUTO, NO_TOOLS, Tool, ToolChoice, ToolMode
from tests.cluster import Completion, cluster
from tests.frontend.test_answer import ids, model
from tests.frontend.test_grammar import EOS, accepts, compiler
from tests.shared_data import shared_data
from tests.spelling import Speller

ADD_ARGUMENTS = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "unit": {"enum": ["C", "F"]}},
    "required": ["n", "unit"],
    "additionalProperties": False,
}
ADD: Tool = {"type": "function", "function": {"name": "add", "parameters": ADD_ARGUMENTS}}
NOW: Tool = {"type": "function", "function": {"name": "now"}}
REQUIRED = ToolChoice(ToolMode.REQUIRED)
MESSAGE = {"role": "user", "content": "hi"}
ARGS = '{"n": 5, "unit": "C"}'
FENCED = "{{ tools }} ```json"
ARROWED = "{{ tools }} [ARGS]"

SPELLED: dict[str, tuple[str, str, str, str]] = {
    "hermes": (
        "hermes",
        "",
        f'<tool_call>\n{{"name": "add", "arguments": {ARGS}}}\n</tool_call>',
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    ),
    "qwen3-coder": (
        "qwen3-coder",
        "",
        f'<tool_call>\n{{"name": "add", "arguments": {ARGS}}}\n</tool_call>',
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    ),
    "llama3": ("llama3", "", f'{{"name": "add", "parameters": {ARGS}}}', '{"name": "now", "parameters": {}}'),
    "json": ("json", "", f'{{"name": "add", "arguments": {ARGS}}}', '{"name": "now", "arguments": {}}'),
    "none": ("none", "", f'{{"name": "add", "arguments": {ARGS}}}', '{"name": "now", "arguments": {}}'),
    "mistral": ("mistral", "", f'{{"name": "add", "arguments": {ARGS}}}', '{"name": "now", "arguments": {}}'),
    "newer mistral": ("mistral", ARROWED, f"[TOOL_CALLS]add[ARGS]{ARGS}", "[TOOL_CALLS]now[ARGS]{}"),
    "deepseek": (
        "deepseek",
        FENCED,
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{ARGS}\n```<｜tool▁call▁end｜>",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>",
    ),
    "newer deepseek": (
        "deepseek",
        "",
        f"<｜tool▁call▁begin｜>add<｜tool▁sep｜>{ARGS}<｜tool▁call▁end｜>",
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
    ),
}
"""A family, its template, and a call of each tool as it is written among several."""
SEPARATORS = {"llama3": "; ", "mistral": ", ", "newer mistral": "", "newer deepseek": ""}
CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
WRAPPED = {"mistral": ("[TOOL_CALLS][", "]"), "deepseek": CALLS, "newer deepseek": CALLS}


def wrapped(how: str, *calls: str) -> str:
    before, after = WRAPPED.get(how, ("", ""))
    return before + SEPARATORS.get(how, "\n").join(calls) + after


def grammar(
    tools: str = "hermes", template: str = "", reasoning: str = "none", prompt: str = "prompt", **fields: Any
) -> Grammar:
    names = ("parallel_tool_calls", "continue_final_message", "strict_tools")
    options = {name: fields.pop(name) for name in names if name in fields}
    messages = fields.pop("messages", (MESSAGE,))
    chat = Chat(
        messages, tools=fields.pop("offered", (ADD, NOW)), tool_choice=fields.pop("choice", REQUIRED), **options
    )
    served = replace(
        model(),
        families=Families.of("", tools, reasoning),
        template=ChatTemplate({"default": template}, {}) if template else None,
    )
    made = calls_grammar(served, GenerateRequest(prompt=chat, **fields), ids(prompt))
    assert made is not None
    return made


def read(text: str, tools: str, reasoning: str = "none", prompt: str = "prompt") -> list[Event]:
    parser = Families.of("", tools, reasoning).parser([ADD, NOW], prompt, forced=True)
    assert parser is not None
    return [event for char in text for event in parser.push(char)] + parser.finish()


def calls_of(events: Sequence[Event]) -> list[tuple[str, Any]]:
    names = {event.index: event.name for event in events if isinstance(event, CallBegun)}
    parts = dict.fromkeys(names, "")
    for event in events:
        if isinstance(event, CallArguments):
            parts[event.index] += event.text
    return [(names[index], json.loads(parts[index])) for index in names]


def said(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content))


@pytest.mark.parametrize("how", SPELLED)
async def test_what_the_grammar_lets_through_is_what_the_parser_reads(how: str) -> None:
    tools, template, add, now = SPELLED[how]
    made = await compiler().compile(grammar(tools, template))
    for answer, calls in (
        (wrapped(how, add), [("add", json.loads(ARGS))]),
        (wrapped(how, now), [("now", {})]),
        (wrapped(how, add, now, add), [("add", json.loads(ARGS)), ("now", {}), ("add", json.loads(ARGS))]),
    ):
        assert accepts(made, answer)
        events = read(answer, tools)
        assert calls_of(events) == calls
        assert not said(events)
    wrong = [wrapped(how, add).replace(*change) for change in (("5", "100"), ('"C"', '"K"'), ("add", "sub"))]
    for spaced in (ARGS.replace(" ", ""), ARGS.replace(" ", "\n"), '{ "n" : 5 , "unit" : "C" }'):
        assert accepts(made, wrapped(how, add.replace(ARGS, spaced)))
    wrong.append(wrapped(how, add.replace(ARGS, ARGS.replace(" ", "  "))))
    for answer in (*wrong, wrapped(how, now).replace("{}", ARGS), "hello", "", wrapped(how), wrapped(how, add) + " so"):
        assert not accepts(made, answer), answer


@pytest.mark.parametrize("how", SPELLED)
@pytest.mark.parametrize("fields", [{"choice": ToolChoice(ToolMode.REQUIRED, "now")}, {"parallel_tool_calls": False}])
async def test_one_call_is_one_call(how: str, fields: dict[str, Any]) -> None:
    tools, template, add, now = SPELLED[how]
    made = await compiler().compile(grammar(tools, template, **fields))
    assert accepts(made, wrapped(how, now))
    assert accepts(made, wrapped(how, add)) == ("choice" not in fields)
    assert not accepts(made, wrapped(how, now, now))


TEMPLATES = {
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3",
    "meta-llama-Llama-3.2-3B-Instruct": "llama3",
}


@pytest.mark.parametrize("name", TEMPLATES)
async def test_calls_are_written_as_the_template_writes_them(name: str) -> None:
    source = (shared_data("chat_templates") / f"{name}.jinja").read_text(encoding="utf-8")
    template = ChatTemplate({"default": source}, {"eos_token": "</s>"}, now=lambda: datetime(2024, 7, 26))
    call = {"id": "abc123def", "type": "function", "function": {"name": "add", "arguments": {"n": 5, "unit": "C"}}}
    parameters = {
        "type": "object",
        "properties": {key: {"type": "string", "description": key} for key in ("n", "unit")},
    }
    tool = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": parameters}}
    asked = template.render([MESSAGE], tools=[tool])
    told = [MESSAGE, {"role": "assistant", "content": None, "tool_calls": [call]}]
    answered = template.render(told, tools=[tool], add_generation_prompt=False)
    written = answered[len(os.path.commonprefix([asked, answered])) :]
    for end in ("<|im_end|>", "<|eot_id|>"):
        written = written.partition(end)[0]
    assert Families.of(source).forced == TEMPLATES[name]
    assert accepts(await compiler().compile(grammar(TEMPLATES[name], source)), written.strip("\n"))


ADDED = SPELLED["json"][2]


@pytest.mark.parametrize("tools", ["json", "hermes"])
@pytest.mark.parametrize(
    ("prompt", "before"),
    [
        ("prompt", ""),
        ("prompt", "<think>\nHm, 1 < 2.\n</think>\n\n"),
        ("<think>\n", "Hm.</think>"),
        ("<think>", "</think>\n"),
    ],
)
async def test_who_reasons_may_do_so_first(tools: str, prompt: str, before: str) -> None:
    made = await compiler().compile(grammar(tools, "", "think", prompt))
    answer = before + SPELLED[tools][2]
    assert accepts(made, answer)
    events = read(answer, tools, "think", prompt)
    assert calls_of(events) == [("add", json.loads(ARGS))]
    assert not said(events)
    thought = "".join(event.text for event in events if isinstance(event, Reasoning))
    assert thought.strip() == before.replace("<think>", "").replace("</think>", "").strip()
    assert not accepts(made, before + "hello")
    assert accepts(made, "hello" + answer) == (prompt != "prompt"), "what has been begun goes on"
    assert accepts(made, SPELLED[tools][2]) == (prompt == "prompt")


async def test_who_has_begun_to_answer_goes_on_with_a_call() -> None:
    begun = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>x</think>Well, "})
    made = await compiler().compile(grammar("json", "", "think", messages=begun, continue_final_message=True))
    assert accepts(made, ADDED)
    assert not accepts(made, f"<think>a</think>{ADDED}")


async def test_what_a_schema_asks_for_and_cannot_be_is_named() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tool: Tool = {"type": "function", "function": {"name": "sort", "parameters": parameters}}
    with pytest.raises(InvalidRequest, match=r"#/properties/a/uniqueItems .* \(of sort\)"):
        await compiler().compile(grammar(offered=(NOW, tool)))
    assert await compiler().compile(grammar(offered=(NOW, tool), choice=ToolChoice(ToolMode.REQUIRED, "now")))
    text: Tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
    with pytest.raises(InvalidRequest, match="are an object") as raised:
        grammar(offered=(text,))
    assert raised.value.field == "tools"
    deep: object = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(InvalidRequest, match="too deep") as raised:
        grammar(offered=({"type": "function", "function": {"name": "f", "parameters": deep}},))
    assert raised.value.field == "tools"
    anything: Tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    made = await compiler().compile(grammar("json", offered=(anything,)))
    assert accepts(made, '{"name": "f", "arguments": {"a": [1]}}')
    assert not accepts(made, '{"name": "f", "arguments": 5}')


def point(**more: object) -> dict[str, object]:
    return {"type": "object", "properties": {"x": {"type": "integer"}}, **more}


@pytest.mark.parametrize(
    ("parameters", "good", "bad"),
    [
        (point(), ["{}", '{"x": 1}'], ['{"x": 1, "y": 2}', '{"y": 2}']),
        (point(additionalProperties=True), ['{"x": 1, "y": 2}'], ['{"x": "a"}']),
        (point(required=["x", "y"]), ['{"x": 1, "y": 2}'], ['{"x": 1}']),
        (point(patternProperties={"^z": {"type": "null"}}), ['{"zz": null}'], ['{"zz": 1}']),
        ({"properties": {"p": point()}}, ['{"p": {"x": 1}}'], ['{"p": {"y": 1}}', '{"q": 1}']),
        ({"properties": {"p": {"type": "array", "items": point()}}}, ['{"p": [{"x": 1}]}'], ['{"p": [{"y": 1}]}']),
        (
            {"$defs": {"P": point()}, "properties": {"p": {"$ref": "#/$defs/P"}}},
            ['{"p": {"x": 1}}'],
            ['{"p": {"y": 1}}'],
        ),
        (
            {
                "$defs": {"P": point()},
                "properties": {"p": {"allOf": [{"$ref": "#/$defs/P"}, {"properties": {"y": {"type": "null"}}}]}},
            },
            ['{"p": {"x": 1, "y": null}}'],
            ['{"p": {"x": 1, "y": 2}}'],
        ),
        ({"anyOf": [point(required=["x"]), {"required": ["y"]}]}, ['{"x": 1}', '{"y": 1}'], []),
    ],
)
async def test_arguments_that_nobody_has_named_are_not_made_up(
    parameters: dict[str, object], good: list[str], bad: list[str]
) -> None:
    tool: Tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    made = await compiler().compile(grammar("json", offered=(tool,)))
    for arguments in good:
        jsonschema.validate(json.loads(arguments), parameters)
    assert [each for each in good if not accepts(made, f'{{"name": "f", "arguments": {each}}}')] == []
    assert [each for each in bad if accepts(made, f'{{"name": "f", "arguments": {each}}}')] == []


def test_what_goes_with_no_calls_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest) as raised:
        grammar(grammar=Grammar(GrammarKind.JSON_OBJECT))
    assert raised.value.field == "grammar"
    with pytest.raises(InvalidRequest) as raised:
        grammar(reasoning="think", separate_reasoning=False)
    assert raised.value.field == "separate_reasoning"
    assert grammar(separate_reasoning=False)


MARKS = ["[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]", "<think>", "</think>", "<tool_call>", "</tool_call>"]
MARKS += [f"<｜tool▁{name}｜>" for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep")]


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Grammars:
    """Of a model to which all marks are special tokens, as they are to those that write them."""
    folder = tmp_path_factory.mktemp("marked")
    spec = json.loads((DEMO_MODEL / "tokenizer.json").read_text())
    options = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    spec["added_tokens"] += [{"id": 4096 + i, "content": mark, **options} for i, mark in enumerate(MARKS)]
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return Grammars(folder, 4096 + len(MARKS), EOS)


@pytest.mark.parametrize(
    ("how", "reasoning", "before"),
    [
        ("hermes", "think", "<think>\nHm.</think>\n\n"),
        ("newer mistral", "mistral", "[THINK]Hm.[/THINK]"),
        ("mistral", "none", ""),
        ("deepseek", "think", ""),
        ("newer deepseek", "think", "<think>Hm.</think>"),
    ],
)
async def test_marks_may_be_special_tokens(marked: Grammars, how: str, reasoning: str, before: str) -> None:
    def lets_through(text: str, answer: str) -> bool:
        return Speller(marked).accepts(text, answer, marked.special_tokens)

    tools, template, add, now = SPELLED[how]
    for is_strict in (False, True):
        made = strict(tools, template, reasoning=reasoning) if is_strict else grammar(tools, template, reasoning)
        text = await GrammarCompiler(marked, ()).compile(made)
        assert "<[40" in text or "<[41" in text
        assert lets_through(text, before + wrapped(how, add))
        assert not lets_through(text, before + wrapped(how, add).replace("5", "100"))
        assert lets_through(text, before + "hello") == is_strict
    assert calls_of(read(before + wrapped(how, add, now), tools, reasoning)) == [("add", json.loads(ARGS)), ("now", {})]


# -- tools that may be called, strictly --------------------------------------------------------------------------------


MARKED = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "newer mistral": "[TOOL_CALLS]"}
MARKED |= dict.fromkeys(("deepseek", "newer deepseek"), "<｜tool▁calls▁begin｜>")


def strict(tools: str, template: str = "", *names: str, **fields: Any) -> Grammar:
    return grammar(tools, template, choice=AUTO, strict_tools=frozenset(names or ("add",)), **fields)


@pytest.mark.parametrize("how", MARKED)
async def test_strict_tools_are_held_to_their_schemas_in_any_text(how: str) -> None:
    tools, template, add, now = SPELLED[how]
    made = await compiler().compile(strict(tools, template))
    for answer, names in (
        ("", []),
        ("Hello <tool, it is 5 [TOOLS]!\n", []),
        (wrapped(how, add), ["add"]),
        (f"Let me see.\n\n{wrapped(how, add)}\nand {wrapped(how, now)} So.", ["add", "now"]),
        (wrapped(how, now.replace("{}", '{"any": [1]}')), ["now"]),
    ):
        assert accepts(made, answer), answer
        assert [name for name, _ in calls_of(read(answer, tools))] == names
    if how not in ("hermes", "newer mistral"):
        assert accepts(made, "a" + wrapped(how, add, now))
    for answer in (
        MARKED[how],
        wrapped(how, add).replace("5", "100"),
        f"a{wrapped(how, add)[:-1]}",
        "a " + MARKED[how] + "x",
    ):
        assert not accepts(made, answer), answer


async def test_strict_calls_come_after_thoughts_which_may_be_of_calls() -> None:
    made = await compiler().compile(strict("hermes", "", "add", reasoning="think", prompt="<think>"))
    add = SPELLED["hermes"][2]
    assert accepts(made, f"I could <tool_call> it.</think>\n\nWell. {add}")
    assert accepts(made, "Hm.</think>Well.")
    assert not accepts(made, "Hm.</think><tool_call>x")


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": "json"},
        {"tools": "llama3"},
        {"tools": "qwen3-coder"},
        {"tools": "none"},
        {"strict_tools": frozenset({"other"})},
        {"strict_tools": frozenset()},
        {"choice": NO_TOOLS},
        {"grammar": Grammar(GrammarKind.JSON_OBJECT)},
    ],
)
def test_other_answers_are_free(fields: dict[str, Any]) -> None:
    options = {"choice": AUTO, "strict_tools": frozenset({"add"}), **fields}
    with pytest.raises(AssertionError):
        grammar(**options)


async def test_what_a_strict_schema_asks_for_and_cannot_be_is_named() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tool: Tool = {"type": "function", "function": {"name": "sort", "parameters": parameters}}
    with pytest.raises(InvalidRequest, match=r"uniqueItems .* \(of sort\)"):
        await compiler().compile(strict("hermes", "", "sort", offered=(ADD, tool)))
    assert await compiler().compile(strict("hermes", "", "add", offered=(ADD, tool)))


# -- JSON, or calls instead --------------------------------------------------------------------------------------------


def formatted(how: str, **fields: Any) -> Grammar:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    json_schema = Grammar(GrammarKind.JSON_SCHEMA, json.dumps({**schema, "additionalProperties": False}))
    options = {"choice": AUTO, "grammar": json_schema, "format_only": True, **fields}
    tools, template, _, _ = SPELLED[how]
    return grammar(tools, template, **options)


@pytest.mark.parametrize("how", ["hermes", "qwen3-coder", "mistral", "newer mistral", "deepseek"])
async def test_an_answer_has_the_format_or_calls(how: str) -> None:
    tools, _, add, now = SPELLED[how]
    made = await compiler().compile(formatted(how))
    assert accepts(made, '{"a": 1}')
    assert said(read('{"a": 1}', tools)) == '{"a": 1}'
    for answer, names in ((wrapped(how, add), ["add"]), (wrapped(how, now, add), ["now", "add"])):
        assert accepts(made, answer)
        assert [name for name, _ in calls_of(read(answer, tools))] == names
    for answer in ('{"b": 1}', "hello", '{"a": 1}' + wrapped(how, add), wrapped(how, add) + '{"a": 1}'):
        assert not accepts(made, answer), answer
    one = await compiler().compile(formatted(how, parallel_tool_calls=False))
    assert accepts(one, wrapped(how, add))
    assert not accepts(one, wrapped(how, add, add))


async def test_who_reasons_may_do_so_before_the_format() -> None:
    made = await compiler().compile(formatted("hermes", reasoning="think", prompt="<think>", choice=NO_TOOLS))
    assert accepts(made, 'Hm.</think>\n\n{"a": 1}')
    assert not accepts(made, '{"a": 1}')
    assert not accepts(made, "Hm.</think>" + SPELLED["hermes"][2])
    any_object = Grammar(GrammarKind.JSON_OBJECT)
    free = await compiler().compile(formatted("hermes", reasoning="think", grammar=any_object))
    for answer in ('{"b": [1]}', '<think>Hm.</think>{"b": 1}', SPELLED["hermes"][2]):
        assert accepts(free, answer)
    demanded = await compiler().compile(formatted("hermes", choice=REQUIRED))
    assert accepts(demanded, SPELLED["hermes"][2])
    assert not accepts(demanded, '{"a": 1}')


@pytest.mark.parametrize(
    "fields",
    [
        {"choice": NO_TOOLS},
        {"how": "none"},
        {"how": "json"},
        {"how": "llama3"},
        {"choice": NO_TOOLS, "reasoning": "think", "separate_reasoning": False},
        {"format_only": False},
    ],
)
def test_where_there_are_no_calls_the_format_is_all(fields: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        formatted(**{"how": "hermes", **fields})


# -- over real workers -------------------------------------------------------------------------------------------------


def forced(choice: ToolChoice = REQUIRED, **options: Any) -> GenerateRequest:
    chat = Chat(({"role": "user", "content": "Once upon a time"},), tools=(ADD, NOW), tool_choice=choice)
    chat = replace(chat, parallel_tool_calls=options.pop("parallel_tool_calls", True))
    return GenerateRequest(prompt=chat, **{"max_tokens": 300, "temperature": 1.0, **options})


def made_calls(answer: Completion) -> list[tuple[str, str]]:
    found: list[list[str]] = []
    for delta in answer.deltas:
        for call in delta.calls:
            if call.name is not None:
                assert call.index == len(found)
                assert call.id
                found.append([call.name, ""])
            found[call.index][1] += call.arguments
    return [(name, arguments) for name, arguments in found]


def check(answer: Completion) -> None:
    """Its calls are valid, but for one that its length has cut; of markup that is cut nobody knows what it means."""
    calls = made_calls(answer)
    is_whole = answer.finished.reason is Finish.TOOL_CALLS
    assert is_whole or answer.finished.reason is Finish.LENGTH
    assert not (is_whole and answer.text)
    complete = calls if is_whole else calls[:-1]
    for name, arguments in complete:
        if name == "add":
            jsonschema.validate(json.loads(arguments), ADD_ARGUMENTS)
        else:
            assert (name, json.loads(arguments)) == ("now", {})


TOLD = "{% for message in messages %}{{ message.content }}{% endfor %}{# tools #}"


@pytest.mark.parametrize(
    "marks",
    [
        "<tool_call>",
        "<function= <parameter=",
        "[TOOL_CALLS]",
        "[TOOL_CALLS] [ARGS]",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁begin｜> ```json",
        "<|start_header_id|>",
        "",
    ],
)
async def test_a_model_that_knows_nothing_calls(marks: str, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(f"{TOLD}{{#{marks}#}}")
    # what deepseek's markers are made of is a space to sentencepiece, where they are no tokens of their own
    folder = DEMO_MODEL if "▁" in marks else shared_data("models", "stories260K")
    async with cluster(folder, chat_template=template) as running:

        async def ask(**options: Any) -> list[Completion]:
            return await asyncio.gather(*(running.complete(forced(seed=seed, **options)) for seed in range(2)))

        required, named, one, cut = await asyncio.gather(
            ask(), ask(choice=ToolChoice(ToolMode.REQUIRED, "add")), ask(parallel_tool_calls=False), ask(max_tokens=6)
        )
    for answer in (*required, *named, *one):
        check(answer)
        assert made_calls(answer)
    assert [name for answer in named for name, _ in made_calls(answer)] == ["add", "add"]
    assert [len(made_calls(answer)) for answer in one] == [1, 1]
    assert {answer.finished.reason for answer in (*named, *one)} == {Finish.TOOL_CALLS}
    assert {answer.finished.reason for answer in cut} == {Finish.LENGTH}


async def test_a_model_that_thinks_is_let_think(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(TOLD + "{% if add_generation_prompt %}<think>{% endif %}{#<tool_call>#}")
    async with cluster(shared_data("models", "stories260K"), prefill=0, chat_template=template) as running:
        thinking = await running.complete(forced(max_tokens=20, temperature=0.0))
    assert (thinking.finished.reason, made_calls(thinking), thinking.text) == (Finish.LENGTH, [], "")
    assert thinking.finished.usage.reasoning_tokens == 20


async def test_a_model_that_need_not_call_says_what_it_likes(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(f"{TOLD}{{#<tool_call>#}}")
    async with cluster(shared_data("models", "stories260K"), chat_template=template) as running:
        request = forced(AUTO, max_tokens=20, temperature=0.0)
        assert isinstance(request.prompt, Chat)
        free = await running.complete(request)
        strict_tools = replace(request.prompt, strict_tools=frozenset({"add"}))
        held = await running.complete(replace(request, prompt=strict_tools))
        form = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(ADD_ARGUMENTS))
        formatted = await running.complete(replace(request, grammar=form, format_only=True, max_tokens=100))
    assert held.token_ids == free.token_ids
    if made_calls(formatted):
        check(formatted)
    else:
        jsonschema.validate(json.loads(formatted.text), ADD_ARGUMENTS)


async def test_a_request_that_cannot_be_kept_costs_no_worker_anything(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(TOLD)
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tool: Tool = {"type": "function", "function": {"name": "sort", "parameters": parameters}}
    async with cluster(shared_data("models", "stories260K"), chat_template=template) as running:
        request = forced()
        assert isinstance(request.prompt, Chat)
        with pytest.raises(InvalidRequest, match="uniqueItems") as raised:
            await running.complete(replace(request, prompt=replace(request.prompt, tools=(tool,))))
        assert raised.value.field == "tools"
        served = running.inference._catalogue.default
        served.model = replace(served.model, grammars=None)
        with pytest.raises(Unsupported) as unsupported:
            await running.complete(request)
        assert unsupported.value.field == "tools"
