"""Public schemas: each is honoured, so that exactly its valid instances can be written, or refused by its keyword.

What can be written: a valid instance passes if one of its JSON texts does (whole numbers without a point, keys in the
schema's order); an invalid one fails if none does. `format` is asserted, as clients of structured output mean it: of
the suite's own tests of `format`, that a text of the wrong format be valid is not asked for. The suite's documents are
at hand, as it asks. What is drawn at random from a grammar is judged by jsonschema.
"""

import gzip
import itertools
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from engine.errors import InvalidRequest
from engine.grammar import Grammars
from frontend.grammar import GrammarCompiler
from frontend.request import Grammar, GrammarKind
from frontend.schemas.documents import load_documents
from frontend.schemas.places import Documents
from tests.frontend.suite_documents import DOCUMENTS, URI, write_documents
from tests.shared_data import shared_data
from tests.spelling import Bytes, Speller

SUITE, STORE = "json_schema_test_suite_2020_12.jsonl.gz", "schemastore.jsonl.gz"
REFUSED = {
    "content_security_policy/format": ["chrome-manifest"],
    "$ref leads to https://json-schema.org/draft/2020-12/schema": [
        "defs.json: validate definition against metaschema",
        "ref.json: remote ref, containing refs itself",
    ],
    "format 'idn-hostname'": ["format.json: idn-hostname format"],
    "format 'regex'": ["format.json: regex format"],
    "multipleOf": ["multipleOf.json: float division = inf"],
    "uniqueItems": [
        "deployed",
        "github-funding",
        "linutil-tabs",
        "uniqueItems.json: uniqueItems validation",
        "uniqueItems.json: uniqueItems with an array of items",
        "winutil-presets",
    ],
    "more than 512": ["mongodb-atlas-search-index-definition", "utam-page-object"],
}
"""By what their refusals say."""
UNSATISFIABLE = "Unsatisfiable"
NUM_DRAWN = 200
"""Of each schema."""
BEYOND_PYTHON = ("pattern with Unicode property escape", "patternProperties with Unicode property escape")
"""Schemas whose patterns Python's `re`, which jsonschema uses, cannot read."""


@dataclass(frozen=True)
class Group:
    name: str
    schema: Any
    valid: list[Any]
    invalid: list[Any]


@cache
def groups() -> list[Group]:
    found = []
    for row in rows(SUITE):
        of = {valid: [test["data"] for test in row["tests"] if test["valid"] is valid] for valid in (True, False)}
        if row["file"] == "format.json":
            of[True] = [value for value in of[True] if not isinstance(value, str)]
        found.append(Group(f"{row['file']}: {row['description']}", row["schema"], of[True], of[False]))
    return found + [Group(row["name"], row["schema"], row["valid"], row["invalid"]) for row in rows(STORE)]


def rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(shared_data("schemas", name), "rt") as file:
        yield from map(json.loads, file)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return load_documents([write_documents(tmp_path_factory.mktemp("documents"))])


@cache
def grammars() -> Grammars:
    return Grammars(shared_data("models", "stories260K"), 512, (1, 2))


def compiled(schema: Any, documents: Documents) -> tuple[str, str]:
    """The grammar, or why there is none."""
    outcome = GrammarCompiler(grammars(), (), documents)._compile(Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)))
    return outcome.text, outcome.error


def check(group: Group, accepts: Any) -> None:
    orders = orders_of(group.schema)
    for value in group.valid:
        assert any(accepts(text) for text in texts(value, orders)), f"{group.name}: {value} cannot be written"
    for value in group.invalid:
        for text in texts(value, orders):
            assert not accepts(text), f"{group.name}: {text} can be written"


def orders_of(schema: Any) -> list[list[str]]:
    """The names of properties in their order, of every object that the schema describes, and of all of them."""
    found: list[list[str]] = [[]]

    def look(value: Any) -> None:
        if isinstance(value, dict):
            names = value.get("properties"), value.get("required")
            mine = [name for each in names if isinstance(each, dict | list) for name in each if isinstance(name, str)]
            found.append(list(dict.fromkeys(mine)))
            found[0] += mine
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            look(item)

    look(schema)
    return [list(dict.fromkeys(found[0])), *found[1:]]


def texts(value: Any, orders: list[list[str]]) -> Iterator[str]:
    """The ways to write an instance down that are tried, most likely first."""
    seen: set[str] = set()
    for shape in (plain(value), value):
        for ordered in (sorted_keys(shape, orders), sorted_keys(shape, orders[:1]), shape, *permuted(shape)):
            text = json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))
            if text not in seen:
                seen.add(text)
                yield text


def plain(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case _:
            return value


def sorted_keys(value: Any, orders: list[list[str]]) -> Any:
    """Each object in the order that knows most of its keys and fewest others."""
    match value:
        case dict():
            order = max(orders, key=lambda names: (len(value.keys() & set(names)), -len(names)))
            place = {name: position for position, name in enumerate(order)}
            keys = sorted(value, key=lambda key: place.get(key, len(place)))
            return {key: sorted_keys(value[key], orders) for key in keys}
        case list():
            return [sorted_keys(item, orders) for item in value]
        case _:
            return value


def permuted(value: Any) -> Iterator[Any]:
    if isinstance(value, dict) and 2 <= len(value) <= 5:
        for keys in itertools.permutations(value):
            yield {key: value[key] for key in keys}


def test_some_public_schemas_are_honoured_on_the_tokens_of_a_model(documents: Documents) -> None:
    speller = Speller(grammars())
    for group in groups()[::23]:
        text, error = compiled(group.schema, documents)
        if not error:
            check(group, lambda answer, text=text: speller.accepts(text, answer))


@pytest.mark.slow
def test_every_public_schema_is_honoured_or_refused_by_its_keyword(
    documents: Documents, capsys: pytest.CaptureFixture[str]
) -> None:
    honoured: list[str] = []
    refused: dict[str, str] = {}
    for group in groups():
        text, error = compiled(group.schema, documents)
        if error and not (UNSATISFIABLE in error and not group.valid):
            refused[group.name] = error
            continue
        if not error:
            check(group, Bytes(text).accepts)
        honoured.append(group.name)
    expected = {name: said for said, names in REFUSED.items() for name in names}
    with capsys.disabled():
        sys.stdout.write(f"\n{len(honoured)} of {len(groups())} schemas are honoured, {len(refused)} refused\n")
    assert refused.keys() == expected.keys()
    assert [error for name, error in refused.items() if expected[name] not in error] == []
    assert len(honoured) >= 0.95 * len(groups())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_drawn_from_a_grammar_is_an_instance_of_its_schema(
    documents: Documents, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, num_complete = random.Random(0), {}
    honoured = [(group, text) for group in groups() if (text := compiled(group.schema, documents)[0])]
    judged = [each for each in honoured if not any(words in each[0].name for words in BEYOND_PYTHON)]
    for group, text in judged:
        validator = validator_of(group.schema)
        grammar = Bytes(text)
        answers = [grammar.draw(rng) for _ in range(NUM_DRAWN)]
        complete = {answer for answer in answers if answer is not None}
        wrong = [answer for answer in complete if not validator.is_valid(exactly(answer))]
        assert wrong == [], group.name
        num_complete[group.name] = sum(answer is not None for answer in answers)
    num_all, num_drawn = sum(num_complete.values()), NUM_DRAWN * len(judged)
    few = {name: number for name, number in num_complete.items() if number < 0.9 * NUM_DRAWN}
    with capsys.disabled():
        sys.stdout.write(f"\n{num_all} of {num_drawn} answers drawn were complete, and all of them valid\n")
        sys.stdout.write(f"of {len(honoured) - len(judged)} schemas nothing was judged: {', '.join(BEYOND_PYTHON)}\n")
        sys.stdout.write(f"fewer than nine in ten of {NUM_DRAWN} were complete of {few}\n")
    assert len(honoured) - len(judged) == len(BEYOND_PYTHON)
    assert min(num_complete.values()) > 0
    assert num_all >= 0.95 * num_drawn


def exactly(text: str) -> Any:
    """Numbers as they are written: what is a multiple of 0.0001 is none of the nearest binary number."""
    return json.loads(text, parse_float=lambda number: float(number) if "e" in number.lower() else Decimal(number))


def validator_of(schema: Any) -> Any:
    schema = exactly(json.dumps(schema))
    found = [(f"{URI}{name}.json", Resource(document, DRAFT202012)) for name, document in DOCUMENTS.items()]
    made = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    return made(schema, registry=Registry().with_resources(found), format_checker=made.FORMAT_CHECKER)


def test_a_schema_that_nothing_matches_is_refused(documents: Documents) -> None:
    for schema in (False, {"enum": []}, {"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"}):
        assert UNSATISFIABLE in compiled(schema, documents)[1]
    with pytest.raises(InvalidRequest):
        grammars().start(json.dumps({"grammars": [{"json_schema": False}]}))
