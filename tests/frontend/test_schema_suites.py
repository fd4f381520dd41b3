"""Public schemas: each is honoured, so that exactly its valid instances can be written, or refused by its keyword.

What can be written: a valid instance passes if one of its JSON texts does (whole numbers without a point, keys in the
schema's order); an invalid one fails if none does. `format` is asserted, as clients of structured output mean it: of
the suite's own tests of `format`, that a text of the wrong format be valid is not asked for.
"""

import gzip
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from engine.errors import InvalidRequest
from engine.grammar import Grammars
from frontend.grammar import GrammarCompiler, _Outcome
from frontend.request import Grammar, GrammarKind
from frontend.schema import UNSUPPORTED
from tests.shared_data import shared_data
from tests.spelling import Speller

NAMED = (
    *UNSUPPORTED,
    "format",
    "$ref",
    "Resource",
    "allOf",
    "oneOf",
    "patternProperty",
    "look-around",
    "maxProperties",
    "multipleOf",
)
"""One of which a refusal names, in quotes or not."""
UNSATISFIABLE = "nsatisfiable"


@cache
def grammars() -> Grammars:
    return Grammars(shared_data("models", "stories260K"), 512, (1, 2))


@dataclass(frozen=True)
class Group:
    name: str
    schema: Any
    valid: list[Any]
    invalid: list[Any]


def suite() -> Iterator[Group]:
    for row in rows("json_schema_test_suite_2020_12.jsonl.gz"):
        of = {valid: [test["data"] for test in row["tests"] if test["valid"] is valid] for valid in (True, False)}
        if row["file"] == "format.json":
            of[True] = [value for value in of[True] if not isinstance(value, str)]
        yield Group(f"{row['file']}: {row['description']}", row["schema"], of[True], of[False])


def store() -> Iterator[Group]:
    for row in rows("schemastore.jsonl.gz"):
        yield Group(row["name"], row["schema"], row["valid"], row["invalid"])


def rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(shared_data("schemas", name), "rt") as file:
        yield from map(json.loads, file)


def outcome(schema: Any) -> _Outcome:
    return GrammarCompiler(grammars(), ())._compile(Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)))


def judge(group: Group, speller: Speller) -> str:
    """honoured, refused, too strict (a valid instance cannot be written) or too lax."""
    made = outcome(group.schema)
    if made.error:
        said = re.findall(r"[\w$-]+", made.error.replace("cannot", ""))
        assert UNSATISFIABLE in made.error or not set(NAMED).isdisjoint(said), f"{group.name}: {made.error}"
        return "honoured" if UNSATISFIABLE in made.error and not group.valid else "refused"
    orders = orders_of(group.schema)
    if not all(any(speller.accepts(made.text, text) for text in texts(value, orders)) for value in group.valid):
        return "too strict"
    if any(speller.accepts(made.text, text) for value in group.invalid for text in texts(value, orders)):
        return "too lax"
    return "honoured"


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


@pytest.mark.parametrize("groups", [suite, store], ids=["JSON Schema Test Suite", "SchemaStore"])
def test_every_schema_is_honoured_or_refused_by_its_keyword(groups: Any, capsys: pytest.CaptureFixture[str]) -> None:
    speller = Speller(grammars())
    found = {group.name: judge(group, speller) for group in groups()}
    counts = Counter(found.values())
    taken = len(found) - counts["refused"]
    told = counts["honoured"] + counts["refused"]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(found)} schemas: {counts['honoured']} honoured of {taken} that are taken "
            f"({counts['honoured'] / taken:.1%}), {counts['refused']} refused by keyword; "
            f"{told} ({told / len(found):.1%}) as they should be\n"
        )
        for name, verdict in found.items():
            if verdict in ("too strict", "too lax"):
                sys.stdout.write(f"  {verdict}: {name}\n")
    assert counts["honoured"] >= 0.95 * taken
    assert told >= 0.95 * len(found)
    assert not counts["too lax"], "what is taken is never less than what was asked"


def test_a_schema_that_nothing_matches_is_refused() -> None:
    assert UNSATISFIABLE in outcome({"enum": []}).error
    with pytest.raises(InvalidRequest):
        grammars().start(json.dumps({"grammars": [{"json_schema": False}]}))
