"""Grammars of every kind: what answers they let through, and what is refused, in which words."""

import asyncio
import json
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from engine.errors import InvalidRequest, Unsupported
from engine.grammar import Grammars
from engine.hub import DEMO_MODEL
from frontend import grammar as grammar_module
from frontend.grammar import MAX_GBNF_CHARS, GrammarCompiler
from frontend.model import LoadedModel
from frontend.request import Grammar, GrammarKind
from frontend.tags import Call, calls
from tests.spelling import Speller

EOS = (2, 0)


@cache
def grammars() -> Grammars:
    return Grammars(DEMO_MODEL, 4096, EOS)


def compiler() -> GrammarCompiler:
    return GrammarCompiler(grammars(), {0, 1, 2})


@cache
def speller() -> Speller:
    return Speller(grammars())


def accepts(text: str, answer: str) -> bool:
    return speller().accepts(text, answer, grammars().special_tokens)


async def compiled(kind: GrammarKind, text: str = "") -> str:
    return await compiler().compile(Grammar(kind, text))


async def refusal(kind: GrammarKind, text: str) -> str:
    with pytest.raises(InvalidRequest) as raised:
        await compiled(kind, text)
    assert raised.value.field == "grammar"
    return raised.value.message


TAG = {"begin": "<f=a>", "schema": {"type": "integer"}, "end": "</f>"}
TAGS = json.dumps({"type": "structural_tag", "structures": [TAG, {**TAG, "begin": "<f=b>"}], "triggers": ["<f="]})
SPECIAL_TAGS = json.dumps(
    {"structures": [{"begin": "<|im_start|>x", "schema": {"type": "boolean"}, "end": ""}], "triggers": ["<|im_start|>"]}
)

OBJECT = {"type": "object"}
CLOSED = {**OBJECT, "additionalProperties": False}
CHOICES = ["yes", "yes, of course", 'n"o\n', "ö"]
KINDS: list[tuple[GrammarKind, str, Sequence[str], Sequence[str]]] = [
    (
        GrammarKind.JSON_SCHEMA,
        json.dumps({**CLOSED, "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
        ['{"a": 1}', '{ "a" :\n-20}'],
        ['{"a": 1.5}', "{}", '{"a": 1, "b": 2}', "[1]", ' {"a": 1}', '{"a": 1'],
    ),
    (GrammarKind.JSON_SCHEMA, "true", ["1", '"x"', "[{}, null]"], ["x", ""]),
    (GrammarKind.JSON_OBJECT, "", ["{}", '{"a": [1, {"b": "\\n"}]}'], ["[]", "1", '{"a": }']),
    (GrammarKind.REGEX, "[a-c]{2}|/x", ["ab", "/x"], ["a", "abc", "x"]),
    (GrammarKind.REGEX, r"\d+\.\d", ["12.5"], ["12", ".5"]),
    (GrammarKind.CHOICE, json.dumps(CHOICES), CHOICES, ["no", "y", ""]),
    (GrammarKind.CHOICE, '["only"]', ["only"], ["on", ""]),
    (GrammarKind.LARK, 'start: "a" b\nb: /[0-9]/ | "(" b ")"', ["a1", "a((2))"], ["a", "a(1", "1"]),
    (GrammarKind.LARK, 'root ::= "a" b\nb ::= [0-9] | "(" b ")"', ["a1", "a((2))"], ["a", "a(1", "1"]),
    (
        GrammarKind.STRUCTURAL_TAG,
        TAGS,
        ["hello", "a <f=a>1</f> b", "<f=b>2</f><f=a>3</f>", "a < b"],
        ["<f=c>1</f>", "<f=a>x"],
    ),
    (GrammarKind.STRUCTURAL_TAG, SPECIAL_TAGS, ["a", "a<|im_start|>xtrue b"], ["<|im_start|>y", "<|im_start|>x1"]),
]


@pytest.mark.parametrize(("kind", "text", "good", "bad"), KINDS)
async def test_every_kind_lets_through_what_it_should(
    kind: GrammarKind, text: str, good: Sequence[str], bad: Sequence[str]
) -> None:
    made = await compiled(kind, text)
    assert [answer for answer in good if not accepts(made, answer)] == []
    assert [answer for answer in bad if accepts(made, answer)] == []


async def test_calls_are_wrapped_as_the_model_writes_them() -> None:
    number = {**OBJECT, "properties": {"n": {"type": "integer"}}}
    add = Call('<|im_start|>{"name": "add", "arguments": ', number, "}")
    now = Call('<|im_start|>{"name": "now", "arguments": ', CLOSED, "}")
    one = await compiler().compile(calls([add, now]))
    assert accepts(one, '<|im_start|>{"name": "add", "arguments": {"n": 1}}')
    assert accepts(one, '<|im_start|>{"name": "now", "arguments": {}}')
    assert not accepts(one, '<|im_start|>{"name": "now", "arguments": {"n": 1}}')
    assert not accepts(one, '<|im_start|>{"name": "other", "arguments": {}}')
    assert not accepts(one, "hello")
    many = await compiler().compile(calls([add, now], prefix="[", separator=", ", suffix="]"))
    call = '<|im_start|>{"name": "now", "arguments": {}}'
    assert accepts(many, f"[{call}]")
    assert accepts(many, f"[{call}, {call}, {call}]")
    assert not accepts(many, f"[{call}, ]")
    assert not accepts(many, call)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (
            GrammarKind.JSON_SCHEMA,
            '{"properties": {"a": {"not": {"multipleOf": 3}}}}',
            ["JSON schema", "#/properties/a/not/multipleOf"],
        ),
        (GrammarKind.JSON_SCHEMA, '{"type": "array", "uniqueItems": true}', ["uniqueItems"]),
        (GrammarKind.JSON_SCHEMA, '{"type": "string", "format": "sonnet"}', ["sonnet"]),
        (GrammarKind.JSON_SCHEMA, '{"$ref": "http://127.0.0.1:1/schema.json"}', ["127.0.0.1"]),
        (GrammarKind.JSON_SCHEMA, '{"type": "sonnet"}', ["sonnet"]),
        (GrammarKind.JSON_SCHEMA, "false", ["nsatisfiable"]),
        (GrammarKind.JSON_SCHEMA, "{", ["JSON schema", "not valid JSON"]),
        (GrammarKind.REGEX, "(a", ["regular expression"]),
        (GrammarKind.REGEX, r"(?=a)b", ["regular expression"]),
        (GrammarKind.CHOICE, "[]", ["choice", "0 texts"]),
        (GrammarKind.CHOICE, "[1]", ["choice"]),
        (GrammarKind.LARK, "", ["empty"]),
        (GrammarKind.LARK, '{"grammars": []}', ["neither Lark nor GBNF"]),
        (GrammarKind.LARK, "start: nobody", ["nobody"]),
        (GrammarKind.LARK, 'start: a\na[temperature=0.5]: "x"', ["temperature"]),
        (GrammarKind.LARK, 'start: a\n a [lazy, stop="x"] : /y*/', ["stop"]),
        (GrammarKind.LARK, "root ::= (", ["GBNF"]),
        (GrammarKind.LARK, "root ::= " + "a" * MAX_GBNF_CHARS, ["at most"]),
        (GrammarKind.LARK, "start: <|nobody|>", ["nobody"]),
        (GrammarKind.STRUCTURAL_TAG, "{", ["not valid JSON"]),
        (GrammarKind.STRUCTURAL_TAG, "[]", ["no JSON object"]),
        (GrammarKind.STRUCTURAL_TAG, '{"format": {}}', ["format"]),
        (GrammarKind.STRUCTURAL_TAG, '{"structures": [], "triggers": ["a"]}', ["structures"]),
        (GrammarKind.STRUCTURAL_TAG, json.dumps({"structures": [TAG], "triggers": []}), ["no trigger"]),
        (GrammarKind.STRUCTURAL_TAG, json.dumps({"structures": [TAG], "triggers": [""]}), ["triggers"]),
        (GrammarKind.STRUCTURAL_TAG, json.dumps({"structures": [TAG | {"x": 1}], "triggers": ["<f="]}), ["structure"]),
        (
            GrammarKind.STRUCTURAL_TAG,
            json.dumps({"structures": [TAG | {"begin": "a<|im_end|>"}], "triggers": ["a<|im_end|>"]}),
            ["special token"],
        ),
    ],
)
async def test_what_cannot_be_honoured_is_refused_in_words(kind: GrammarKind, text: str, words: Sequence[str]) -> None:
    message = await refusal(kind, text)
    assert [word for word in words if word not in message] == [], message


async def test_a_grammar_is_compiled_once_and_a_refusal_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_texts: list[str] = []
    original = grammar_module.grammar_text

    def counting(grammar: Grammar, *others: object) -> str:
        compiled_texts.append(grammar.text)
        return original(grammar, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(grammar_module, "grammar_text", counting)
    made = compiler()
    for _ in range(3):
        assert await made.compile(Grammar(GrammarKind.REGEX, "a"))
        with pytest.raises(InvalidRequest):
            await made.compile(Grammar(GrammarKind.REGEX, "("))
    assert compiled_texts == ["a", "("]
    monkeypatch.setattr(grammar_module, "_MAX_KEPT", 1)
    await made.compile(Grammar(GrammarKind.REGEX, "b"))
    await made.compile(Grammar(GrammarKind.REGEX, "a"))
    assert compiled_texts == ["a", "(", "b", "a"]
    assert made._kept_bytes == sum(len(outcome.text) for outcome in made._kept.values())


async def test_a_grammar_that_takes_too_long_is_refused_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    original = grammar_module.grammar_text

    def slow(grammar: Grammar, *others: object) -> str:
        if grammar.text == "slow":
            go.wait(10)
        return original(grammar, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(grammar_module, "grammar_text", slow)
    monkeypatch.setattr(grammar_module, "COMPILE_S", 0.2)
    made = compiler()
    stuck = asyncio.create_task(made.compile(Grammar(GrammarKind.REGEX, "slow")))
    await asyncio.sleep(0)
    monkeypatch.setattr(grammar_module, "COMPILE_S", 60.0)
    assert await made.compile(Grammar(GrammarKind.REGEX, "a"))
    with pytest.raises(InvalidRequest, match="too complex"):
        await stuck
    go.set()


async def test_too_much_of_a_grammar_is_refused_before_anything_is_done_with_it() -> None:
    assert "at most" in await refusal(GrammarKind.REGEX, "a" * 10_000_000)
    assert "at most" in await refusal(GrammarKind.LARK, "\n" * 300_000)


async def test_special_tokens_that_only_other_files_name_cannot_be_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, folder)
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["added_tokens"] = spec["added_tokens"][1:]
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    loaded = LoadedModel.load(folder, "m", None)
    assert loaded.grammars is not None
    with pytest.raises(Unsupported, match="token 0"):
        await loaded.grammars.compile(Grammar(GrammarKind.JSON_OBJECT))


def chain(count: int, link: str, end: str) -> str:
    """Rules or definitions, each of which is about the next."""
    return "".join(link.replace("NEXT", str(number + 1)).replace("THIS", str(number)) for number in range(count)) + end


DEEP = {
    "rules": (GrammarKind.LARK, "start: a0\n" + chain(3000, 'aTHIS: ((((aNEXT)))) "x"\n', 'a3000: "y"\n')),
    "terminals": (GrammarKind.LARK, "start: A0\n" + chain(3000, 'ATHIS: ANEXT "x"\n', 'A3000: "y"\n')),
    "references": (
        GrammarKind.JSON_SCHEMA,
        '{"$ref": "#/$defs/0", "$defs": {'
        + chain(1000, '"THIS": {"items": {"items": {"$ref": "#/$defs/NEXT"}}}, ', '"1000": true}}'),
    ),
    "choices of choices": (
        GrammarKind.JSON_SCHEMA,
        json.dumps({"allOf": [{"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(30)]}),
    ),
    "groups": (GrammarKind.REGEX, "(" * 100_000 + "a" + ")" * 100_000),
    "repetitions": (GrammarKind.REGEX, "((a{1,1000}){1,1000}){1,1000}"),
    "brackets of GBNF": (GrammarKind.LARK, "root ::= " + "(" * 10_000 + '"a"' + ")" * 10_000),
    "lines": (GrammarKind.LARK, "\n" * 200_000 + "start: /a/"),
}


@pytest.mark.parametrize(("kind", "text"), DEEP.values(), ids=DEEP)
async def test_what_goes_deep_is_compiled_or_refused_and_ends_nobody(kind: GrammarKind, text: str) -> None:
    with suppress(InvalidRequest):
        assert await compiled(kind, text)
