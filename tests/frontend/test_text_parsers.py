"""Answers taken apart: what each family's calls look like, what is none, and that pieces make no difference."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frontend.text.parsers.events import CallArguments, CallBegun, CallEnded, Content, Event, Reasoning
from frontend.text.parsers.families import Families, ReasoningFamily, ToolFamily
from frontend.text.parsers.json_value import JsonValue, is_json

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "deep": {"type": ["boolean", "null"]},
                "where": {"type": "object"},
                "list": {"anyOf": [{"type": "array"}, {"type": "null"}]},
                "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            },
        },
    },
}
TIME = {"type": "function", "function": {"name": "time"}}
TOOLS = (WEATHER, TIME)
PARIS = '{"city": "Paris"}'
OSLO = '{"city": "Os\\"lo {}", "days": [1, {"a": null}]}'


def heard(family: str, pieces: Sequence[str], *, reasoning: str = "none", prompt_end: str = "") -> list[Event]:
    parser = Families.of("", family, reasoning).parser(TOOLS, prompt_end)
    assert parser is not None
    events = [event for piece in pieces for event in parser.push(piece)]
    return events + parser.finish()


def sense(events: Sequence[Event]) -> tuple[str, str, list[tuple[str, str]]]:
    """Content, reasoning, and the calls by name and arguments; ids and numbers must be in order."""
    content, reasoning = "", ""
    calls: list[tuple[str, str]] = []
    ids = set()
    open_call = None
    for event in events:
        match event:
            case Content(text):
                assert text
                content += text
            case Reasoning(text):
                assert text
                reasoning += text
            case CallBegun(index, call_id, name):
                assert (index, open_call) == (len(calls), None)
                assert call_id not in ids
                ids.add(call_id)
                calls.append((name, ""))
                open_call = index
            case CallArguments(index, text):
                assert text
                assert index == open_call
                calls[index] = (calls[index][0], calls[index][1] + text)
            case CallEnded(index):
                assert index == open_call
                open_call = None
    assert open_call is None
    return content, reasoning, calls


def said(family: str, text: str, **options: str) -> tuple[str, str, list[tuple[str, str]]]:
    """What a text comes to, whole and one character at a time."""
    whole = sense(heard(family, [text], **options))
    assert sense(heard(family, list(text), **options)) == whole
    return whole


def called(family: str, text: str) -> list[tuple[str, str]]:
    """The calls of a text that is nothing else."""
    content, _, calls = said(family, text)
    assert content == ""
    return calls


# -- calls -------------------------------------------------------------------------------------------------------------

ONE = [("weather", PARIS)]
DEEP = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
TWO = [("weather", PARIS), ("weather", OSLO)]


@pytest.mark.parametrize(
    ("family", "text", "calls"),
    [
        ("hermes", f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>', ONE),
        ("hermes", f'<tool_call>{{"name":"weather","arguments":{PARIS}}}</tool_call>\n', ONE),
        ("hermes", f'<tool_call>{{"arguments": {PARIS}, "name": "weather"}}</tool_call>', ONE),
        ("hermes", f'<tool_call>{{"id": [1], "name": "weather", "parameters": {PARIS}, "x": "y"}}</tool_call>', ONE),
        ("hermes", f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}', ONE),
        ("hermes", '<tool_call>{"name": "never offered"}</tool_call>', [("never offered", "{}")]),
        (
            "hermes",
            f'<tool_call>\n{{"name": "weather", "arguments": {PARIS}}}\n</tool_call>\n'
            f'<tool_call>\n{{"name": "weather", "arguments": {OSLO}}}\n</tool_call>',
            TWO,
        ),
        (
            "hermes",
            f'<tool_call>{{"name": "weather", "arguments": {PARIS}}}'
            f'<tool_call>{{"name": "weather", "arguments": {OSLO}}}',
            TWO,
        ),
        ("llama3", f'{{"name": "weather", "parameters": {PARIS}}}', ONE),
        ("llama3", f'\n\n{{"name": "weather", "parameters": {PARIS}}}\n', ONE),
        (
            "llama3",
            f'{{"name": "weather", "parameters": {PARIS}}}; {{"name": "weather", "arguments": {OSLO}}}',
            TWO,
        ),
        ("llama3", f'<|python_tag|>{{"name": "weather", "parameters": {PARIS}}}', ONE),
        (
            "llama3",
            '<|python_tag|>brave.call(query="a \\"b\\"", n="1")',
            [("brave", '{"query": "a \\"b\\"", "n": "1"}')],
        ),
        ("llama3", "<|python_tag|>now.call()", [("now", "{}")]),
        ("mistral", f'[TOOL_CALLS][{{"name": "weather", "arguments": {PARIS}}}]', ONE),
        ("mistral", f'[TOOL_CALLS] [{{"name": "weather", "arguments": {PARIS}, "id": "abc123def"}}]\n', ONE),
        (
            "mistral",
            f'[TOOL_CALLS][{{"name": "weather", "arguments": {PARIS}}}, {{"name": "weather", "arguments": {OSLO}}}]',
            TWO,
        ),
        ("mistral", f"[TOOL_CALLS]weather[ARGS]{PARIS}", ONE),
        ("mistral", f"[TOOL_CALLS]weather{PARIS}[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{OSLO}", TWO),
        (
            "deepseek",
            f"{DEEP}function<｜tool▁sep｜>weather\n```json\n{PARIS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            ONE,
        ),
        (
            "deepseek",
            f"{DEEP}weather<｜tool▁sep｜>{PARIS}<｜tool▁call▁end｜>\n"
            f"<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{OSLO}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            TWO,
        ),
        ("deepseek", f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n{PARIS}", ONE),
        ("json", f'{{"name": "weather", "arguments": {PARIS}}}', ONE),
        ("json", f'[{{"name": "weather", "arguments": {PARIS}}}, {{"name": "weather", "arguments": {OSLO}}}]', TWO),
        ("json", f'```json\n{{"name": "weather", "parameters": {PARIS}}}\n```\n', ONE),
        (
            "json",
            f'{{"name": "weather", "arguments": {PARIS}}}\n{{"name": "weather", "arguments": {OSLO}}}',
            TWO,
        ),
        (
            "qwen3-coder",
            "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
            ONE,
        ),
        ("qwen3-coder", "<function=weather><parameter=city>Paris</parameter></function>", ONE),
        ("qwen3-coder", "<tool_call><function=time></function></tool_call>", [("time", "{}")]),
    ],
)
def test_calls(family: str, text: str, calls: list[tuple[str, str]]) -> None:
    assert called(family, text) == calls


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("city", 'a\nb\\ "c" é\t', 'a\nb\\ "c" é\t'),
        ("city", "\n\nParis\n\n", "\n\nParis\n\n"),
        ("city", "5", "5"),
        ("days", "5", 5),
        ("days", " 5\n", 5),
        ("days", "five", "five"),
        ("days", "9" * 5000, None),
        ("deep", "True", True),
        ("deep", "false", False),
        ("deep", "None", None),
        ("where", '{"a": [1.5, "x"]}', {"a": [1.5, "x"]}),
        ("where", "{'a': True}", {"a": True}),
        ("where", "{'a': {1}}", "{'a': {1}}"),
        ("where", "[" * 500, "[" * 500),
        ("list", "[1, 2]", [1, 2]),
        ("list", "['\\ud800']", ["\ud800"]),
        ("either", "5", "5"),
        ("unknown", "[1]", "[1]"),
    ],
)
def test_values_of_qwen3_coder_are_what_the_schema_says(key: str, value: str, expected: object) -> None:
    text = f"<tool_call>\n<function=weather>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>"
    ((name, arguments),) = called("qwen3-coder", text)
    assert name == "weather"
    assert arguments.encode()
    if len(value) < 5000:  # longer numbers are JSON, which Python does not take
        assert json.loads(arguments) == {key: expected}


def test_several_parameters() -> None:
    text = "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>"
    assert called("qwen3-coder", text) == [("weather", '{"city": "Oslo", "days": 3}')]


def test_text_around_calls_stays_without_the_white_space_beside_them() -> None:
    call = f'<tool_call>{{"name": "weather", "arguments": {PARIS}}}</tool_call>'
    assert said("hermes", f" Let me see. \n\n{call}\n\n And?  ") == (" Let me see.And?  ", "", ONE)
    assert said("hermes", " " * 20 + call + "\n" * 40 + "x") == (" " * 4 + "\n" * 24 + "x", "", ONE)
    assert said("mistral", f"Hm. [TOOL_CALLS]weather{PARIS} so") == ("Hm.so", "", ONE)
    assert said("llama3", f'{{"name": "weather", "parameters": {PARIS}}} done; ok') == ("done; ok", "", ONE)
    assert said("llama3", 'Code: <|python_tag|>{"name": "x"} y') == ("Code:y", "", [("x", "{}")])


def test_ids() -> None:
    (begun,) = [e for e in heard("hermes", ['<tool_call>{"name": "a"}']) if isinstance(e, CallBegun)]
    assert begun.id.startswith("call_")
    first, second = (
        event
        for event in heard("mistral", ["[TOOL_CALLS]a{}[TOOL_CALLS]b[CALL_ID]mine00000[ARGS]{}"])
        if isinstance(event, CallBegun)
    )
    assert len(first.id) == 9
    assert first.id.isalnum()
    assert second.id == "mine00000"


def test_arguments_come_as_they_are_written() -> None:
    parser = Families.of("", "hermes", "none").parser(TOOLS, "")
    assert parser is not None
    assert parser.push('<tool_call>\n{"name": "weather", "argu') == []
    begun, first = parser.push('ments": {"city": "Pa')
    assert isinstance(begun, CallBegun)
    assert first == CallArguments(0, '{"city": "Pa')
    assert parser.push('ris"') == [CallArguments(0, 'ris"')]
    assert parser.push("}}") == [CallArguments(0, "}"), CallEnded(0)]
    assert parser.push("\n</tool_") == []
    assert parser.push("call>") == []
    assert parser.finish() == []


# -- what is none ------------------------------------------------------------------------------------------------------

CALL = f'{{"name": "weather", "arguments": {PARIS}}}'


@pytest.mark.parametrize(
    ("family", "text"),
    [
        *(
            (family, text)
            for family in ToolFamily
            for text in ("", "Hello <b>you</b>!", " \n ", "[x] {y} < [TOOL <tool_")
        ),
        ("hermes", "<tool_call>"),
        ("hermes", " \n<tool_call> \n"),
        ("hermes", "<tool_call>\nweather(Paris)\n</tool_call> then"),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "a\\ud800", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "a", "name": "b", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "a", "arguments": "{}"}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {"a": 1'),
        ("hermes", '<tool_call>{"name": "weather"'),
        ("hermes", "<tool_call>{'name': 'weather', 'arguments': {}}</tool_call>"),
        ("hermes", f"[{CALL}]"),
        ("llama3", f"I think: {CALL}"),
        ("llama3", '{"name": "Ann", "parameters": {}}'),
        ("llama3", '{"name": "weather"}'),
        ("llama3", '{"name": "weather", "age": 5}'),
        ("llama3", '<|python_tag|>print("hello")'),
        ("llama3", "<|python_tag|>a.call(b=5)"),
        ("llama3", '<|python_tag|>a.call(b="5" c="6")'),
        ("llama3", '<|python_tag|>a.call(b="5"'),
        ("mistral", "[TOOL_CALLS]"),
        ("mistral", "[TOOL_CALLS] []"),
        ("mistral", "[TOOL_CALLS]weather(Paris)"),
        ("mistral", "[TOOL_CALLS][ARGS]{}"),
        ("deepseek", "<｜tool▁calls▁begin｜> so"),
        ("deepseek", f"{DEEP}function weather"),
        ("deepseek", f"{DEEP}weather<｜tool▁sep｜>Paris<｜tool▁call▁end｜>"),
        ("deepseek", f"{DEEP}<｜tool▁sep｜>{PARIS}"),
        ("json", "[1, 2]"),
        ("json", '{"city": "Paris"}'),
        ("json", "```python\nprint()\n```"),
        ("json", f"Sure: {CALL}"),
        ("json", '[{"name": "Ann", "arguments": {}}]'),
        ("qwen3-coder", "<tool_call>\n<function weather>"),
        ("qwen3-coder", "<function=>x"),
        ("qwen3-coder", "<function=a\nb>"),
    ],
)
def test_what_is_no_call_is_text(family: str, text: str) -> None:
    assert said(family, text) == (text, "", [])


def test_a_call_that_goes_astray_ends_there() -> None:
    text = '<tool_call>{"name": "a", "arguments": {"x": 1,}}</tool_call> so'
    assert said("hermes", text) == ("}}</tool_call> so", "", [("a", '{"x": 1,')])
    assert said("hermes", '<tool_call>{"name": "a", "arguments": {"x": "1') == ("", "", [("a", '{"x": "1')])
    assert said("hermes", '<tool_call>{"name": "a", "arguments": {}, oh') == (", oh", "", [("a", "{}")])
    assert said("mistral", f"[TOOL_CALLS][{CALL}, no]") == (", no]", "", ONE)
    assert said("json", f"{CALL}\n{{no") == ("{no", "", ONE)
    assert said("qwen3-coder", "<function=a>\n<parameter=b>\n1") == ("", "", [("a", '{"b": "1')])
    assert said("qwen3-coder", "<function=a>\n<parameter=b>1</parameter>\n<b>") == ("\n<b>", "", [("a", '{"b": "1"')])


# -- reasoning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prompt_end", "expected"),
    [
        ("<think>\nHm.\n\nSo?\n</think>\n\nYes.", "", ("Yes.", "Hm.\n\nSo?")),
        ("\n<think>Hm.</think>Yes.", "", ("Yes.", "Hm.")),
        ("Hm.\n</think>\n\nYes.", "<think>\n", ("Yes.", "Hm.")),
        ("<think>Hm.</think>Yes.", "<think>\n", ("Yes.", "Hm.")),
        ("</think>Yes.", "<think>", ("Yes.", "")),
        ("Hm. </thin", "<think>", ("", "Hm. </thin")),
        ("Yes <think>.", "", ("Yes <think>.", "")),
        ("Yes.", "<think>\n\n</think>\n\n", ("Yes.", "")),
        ("\n Yes.", "", ("\n Yes.", "")),
        ("<thin", "", ("<thin", "")),
        ("Hm. </think> </think>", "<think>", ("</think>", "Hm.")),
        ("", "<think>", ("", "")),
    ],
)
def test_reasoning(text: str, prompt_end: str, expected: tuple[str, str]) -> None:
    content, reasoning, calls = said("none", text, reasoning="think", prompt_end=prompt_end)
    assert (content, reasoning) == expected
    assert not calls


def test_mistral_marks_its_reasoning_otherwise() -> None:
    assert said("none", "[THINK]Hm.[/THINK]Yes.", reasoning="mistral") == ("Yes.", "Hm.", [])


def test_calls_are_looked_for_behind_the_reasoning() -> None:
    call = f"<tool_call>{CALL}</tool_call>"
    text = f"<think>\nWith {call}?\n</think>\n\nYes.\n{call}"
    assert said("hermes", text, reasoning="think") == ("Yes.", f"With {call}?", ONE)
    assert said("llama3", f"<think>a</think>\n\n{CALL}", reasoning="think") == ("", "a", ONE)


def test_what_the_model_is_taken_to_have_said_may_open_the_reasoning() -> None:
    families = Families(reasoning=ReasoningFamily.THINK)
    for end, thinking in (("<think>a", True), ("<think>a</think>b", False), ("b", False)):
        parser = families.parser((), end, continues=True)
        assert parser is not None
        assert parser.thinking is thinking
        parser = families.parser((), end)
        assert parser is not None
        assert not parser.thinking


def test_where_nothing_is_to_be_found_there_is_no_parser() -> None:
    assert Families().parser(TOOLS, "") is None
    assert Families(tools=ToolFamily.HERMES).parser((), "") is None
    assert Families(reasoning=ReasoningFamily.THINK).parser(TOOLS, "", separate_reasoning=False) is None


# -- any text, in any pieces -------------------------------------------------------------------------------------------

ATOMS = [
    *(
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "weather",
        ">",
        "<parameter=",
        "city",
        "</parameter>",
        "</function>",
    ),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", ".call(", ")", "<think>", "</think>", "```json", "```"),
    *(
        '{"name": "weather", "arguments": ',
        '{"name": "',
        '"',
        ": ",
        ", ",
        "{",
        "}",
        "[",
        "]",
        ";",
        "\\",
        "\\u00e9",
        "1",
    ),
    *(" ", "\n", "\n\n", " " * 17, "<", "x", "true", "é", PARIS, OSLO, f"<tool_call>{CALL}</tool_call>", CALL),
]
answers = st.lists(st.sampled_from(ATOMS) | st.text(max_size=3), max_size=12).map("".join)


@st.composite
def cut(draw: st.DrawFn, texts: st.SearchStrategy[str] = answers) -> tuple[str, list[str]]:
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return text, [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]


@settings(max_examples=400, deadline=None)
@given(
    family=st.sampled_from([*ToolFamily]),
    reasoning=st.sampled_from(["none", "think"]),
    prompt_end=st.sampled_from(["", "<think>\n"]),
    answer=cut(),
)
def test_pieces_make_no_difference(family: str, reasoning: str, prompt_end: str, answer: tuple[str, list[str]]) -> None:
    text, pieces = answer
    options: dict[str, Any] = {"reasoning": reasoning, "prompt_end": prompt_end}
    whole = sense(heard(family, [text], **options))
    assert sense(heard(family, pieces, **options)) == whole
    assert sense(heard(family, list(text), **options)) == whole


no_calls = st.lists(st.sampled_from([atom for atom in ATOMS if "name" not in atom and "=" not in atom]), max_size=12)


@settings(max_examples=300, deadline=None)
@given(family=st.sampled_from([ToolFamily.HERMES, ToolFamily.JSON, ToolFamily.QWEN3_CODER]), atoms=no_calls)
def test_nothing_is_lost_where_there_is_no_call(family: str, atoms: list[str]) -> None:
    text = "".join(atoms)
    assert said(family, text) == (text, "", [])


@settings(max_examples=200, deadline=None)
@given(
    family=st.sampled_from([ToolFamily.HERMES, ToolFamily.MISTRAL, ToolFamily.LLAMA3, ToolFamily.JSON]),
    arguments=st.lists(
        st.dictionaries(
            st.text(max_size=4),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.text(),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
                max_leaves=5,
            ),
            max_size=3,
        ),
        min_size=1,
        max_size=3,
    ),
    data=st.data(),
)
def test_calls_with_any_arguments_come_through(
    family: str, arguments: list[dict[str, Any]], data: st.DataObject
) -> None:
    spelled = [json.dumps(each, ensure_ascii=data.draw(st.booleans())) for each in arguments]
    calls = [f'{{"name": "weather", "arguments": {each}}}' for each in spelled]
    text = {
        ToolFamily.HERMES: "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls),
        ToolFamily.MISTRAL: f"[TOOL_CALLS][{', '.join(calls)}]",
        ToolFamily.LLAMA3: "; ".join(calls),
        ToolFamily.JSON: f"[{', '.join(calls)}]",
    }[ToolFamily(family)]
    _, pieces = data.draw(cut(st.just(text)))
    assert sense(heard(family, pieces)) == ("", "", [("weather", each) for each in spelled])


@pytest.mark.parametrize("family", ToolFamily)
@pytest.mark.parametrize(
    "unit",
    ["<tool_call>{", '{"', "[", " ", "<", "[TOOL_CALLS]", '<tool_call>{"arguments":{"a":"', "```"],
)
def test_long_answers_take_as_long_as_they_are(family: str, unit: str) -> None:
    """Were any of them quadratic, this would not end in a test's time."""
    text = unit * (20_000 // len(unit))
    assert sense(heard(family, list(text))) == (text, "", [])


def test_a_long_call_takes_as_long_as_it_is() -> None:
    value = "x" * 100_000
    for text in (
        f'<tool_call>{{"name": "weather", "arguments": {{"city": "{value}"}}}}</tool_call>',
        f'<tool_call>{{"arguments": {{"city": "{value}"}}, "name": "weather"}}</tool_call>',
    ):
        assert sense(heard("hermes", list(text))) == ("", "", [("weather", json.dumps({"city": value}))])


# -- JSON --------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(st.sampled_from('{}[]:,"\\ \ntrue1-.e0null\x01é'), max_size=8).map("".join)
    | st.recursive(st.integers() | st.text() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        json.dumps
    )
)
def test_what_is_json_is_told_as_the_library_tells_it(text: str) -> None:
    try:
        json.loads(text, parse_constant=lambda name: 1 / 0)
        expected = True
    except (ValueError, ZeroDivisionError):
        expected = False
    assert is_json(text) is expected


def test_any_depth() -> None:
    assert is_json("[" * 100_000 + "]" * 100_000)
    value = JsonValue()
    assert value.read('{"a": [1, 2]} {', 0) == 13
    assert value.done
