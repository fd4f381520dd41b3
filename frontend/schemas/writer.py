"""A schema as a grammar in Lark: a rule for every condition that a value may have to hold.

A rule is written only where some value can hold its condition, so that no answer comes to a dead end. Does not know
keywords.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.errors import InvalidRequest
from frontend.schemas import lists
from frontend.schemas.formula import WHOLE, Shapes
from frontend.schemas.lexemes import Lexemes, decimal, quoted
from frontend.schemas.objects import Object, ObjectRules, objects_of
from frontend.schemas.places import Documents
from frontend.schemas.reader import Reader
from frontend.schemas.regex import json_text
from frontend.schemas.shapes import ANYTHING, NEVER, Boolean, Condition, Fields, Items, Null, Number, Text, some_of

MAX_CONDITIONS = 2_000
"""That values of one grammar hold."""
MAX_CHARS = 2**20
"""Of a grammar, while it is written."""


def write(schema: object, white_space: str, documents: Documents) -> str:
    """The grammar of the values that match a schema; `white_space`, a regular expression, may stand between any two of
    their tokens. Raises InvalidRequest, with the keyword, for what cannot be honoured."""
    try:
        reader = Reader(schema, documents)
        return _Writer(reader.shapes, white_space).write(some_of([reader.root]))
    except RecursionError:
        raise InvalidRequest("$ref, allOf and the like: its schemas apply to one another too deeply") from None


@dataclass(slots=True)
class _Node:
    """What may be written for one condition."""

    name: str
    scalars: list[str] = field(default_factory=list)
    lists: list[Items] = field(default_factory=list)
    objects: list[Object] = field(default_factory=list)

    def conditions(self) -> Iterator[Condition]:
        for items in self.lists:
            yield from lists.conditions_of(items)
        for made in self.objects:
            yield from made.conditions()


class _Writer:
    def __init__(self, shapes: Shapes, white_space: str) -> None:
        self._shapes = shapes
        self._lexemes = Lexemes(white_space)
        self._white_space = white_space
        self._nodes: dict[Condition, _Node] = {}
        self._alive: set[Condition] = {ANYTHING}

    def write(self, condition: Condition) -> str:
        self._collect(condition)
        self._find_alive()
        if condition not in self._alive:
            raise InvalidRequest("Unsatisfiable schema: nothing matches it")
        rules = [f"start: {self._rule_of(condition)}", *self._any()]
        size = 0
        for key, node in self._nodes.items():
            if key in self._alive and key != ANYTHING:
                made = self._rules(node)
                size += sum(map(len, made))
                if size > MAX_CHARS:
                    raise InvalidRequest("its grammar is too large")
                rules += made
        options = json.dumps({"ignore_once": True})
        head = [f"%llguidance {options}", f"%ignore /{self._white_space}/"]
        return "\n".join([*head, *rules, *self._lexemes.definitions()])

    def _collect(self, condition: Condition) -> None:
        waiting = [condition]
        while waiting:
            each = waiting.pop()
            if each in self._nodes or each in (NEVER, ANYTHING):
                continue
            if len(self._nodes) >= MAX_CONDITIONS:
                raise InvalidRequest(f"properties, items, $ref: it has more than {MAX_CONDITIONS} kinds of values")
            node = self._nodes[each] = self._node(each, f"n{len(self._nodes)}")
            waiting += node.conditions()

    def _node(self, condition: Condition, name: str) -> _Node:
        node = _Node(name)
        texts: list[str] = []
        for kind, whole in WHOLE.items():
            for shape in self._shapes.of(condition, kind):
                match shape:
                    case Null():
                        node.scalars.append('"null"')
                    case Boolean(values):
                        node.scalars += (quoted(json.dumps(value)) for value in sorted(values))
                    case Number():
                        node.scalars.append(self._lexemes.number(shape))
                    case Text():
                        texts += [term] if (term := self._lexemes.text(shape)) else []
                    case Items() | Fields() if shape == whole:
                        node.scalars.append(f"any_{kind}")
                    case Items():
                        node.lists.append(shape)
                    case Fields():
                        node.objects += objects_of(shape, self._lexemes)
        if term := self._lexemes.join(texts):
            node.scalars.append(term)
        return node

    def _find_alive(self) -> None:
        waiting = dict(reversed(self._nodes.items()))
        before = -1
        while len(waiting) != before:
            before = len(waiting)
            for condition, node in list(waiting.items()):
                if self._is_possible(node):
                    self._alive.add(condition)
                    del waiting[condition]

    def _is_alive(self, condition: Condition) -> bool:
        return condition in self._alive

    def _is_possible(self, node: _Node) -> bool:
        return (
            bool(node.scalars)
            or any(self._list_rules(items, "") is not None for items in node.lists)
            or any(ObjectRules(made, self._is_alive, self._rule_of).is_possible() for made in node.objects)
        )

    def _rule_of(self, condition: Condition) -> str:
        return "any" if condition == ANYTHING else self._nodes[condition].name

    def _rules(self, node: _Node) -> list[str]:
        options = list(dict.fromkeys(node.scalars))
        rules: list[str] = []
        for number, items in enumerate(node.lists):
            if made := self._list_rules(items, f"{node.name}_l{number}"):
                options.append(f"{node.name}_l{number}")
                rules += made
        for number, each in enumerate(node.objects):
            written = ObjectRules(each, self._is_alive, self._rule_of)
            if written.is_possible():
                options.append(f"{node.name}_o{number}")
                rules += written.rules(f"{node.name}_o{number}")
        return [f"{node.name}: {' | '.join(options)}", *rules]

    def _list_rules(self, items: Items, name: str) -> list[str] | None:
        """None if there is no such list."""
        if items.unique and (items.most is None or items.most > 1):
            return lists.distinct(items, self._values, name)
        if items.counts:
            return lists.counted(items, self._is_alive, name, self._rule_of)
        bounds = lists.shortened(items, self._is_alive)
        return None if bounds is None else [f"{name}: {lists.plain(items, *bounds, self._rule_of)}"]

    def _values(self, condition: Condition) -> list[str] | None:
        """The texts of the values that hold a condition, quoted; None if they are too many."""
        if condition == ANYTHING:
            return None
        found: list[str] = []
        for kind in WHOLE:
            for shape in self._shapes.of(condition, kind):
                match shape:
                    case Null():
                        found.append("null")
                    case Boolean(values):
                        found += map(json.dumps, sorted(values))
                    case Number(least=least, most=most, whole=True) if least is not None and most is not None:
                        if most - least > lists.MAX_DISTINCT or shape.step is not None:
                            return None
                        found += map(str, range(int(least), int(most) + 1))
                    case Number(least=least, most=most) if least is not None and least == most:
                        found.append(decimal(least))
                    case Text(among=among) if among is not None:
                        found += map(json_text, sorted(self._kept(shape, among)))
                    case _:
                        return None
        texts = [quoted(text) for text in dict.fromkeys(found)]
        return texts if len(texts) <= lists.MAX_DISTINCT else None

    def _kept(self, shape: Text, among: frozenset[str]) -> Iterator[str]:
        return (each for each in among if self._lexemes.text(Text(among=frozenset({each}), terms=shape.terms)))

    def _any(self) -> Iterator[str]:
        """The rules of any JSON at all."""
        number, string = self._lexemes.number(Number()), self._lexemes.string
        yield f'any: "null" | "true" | "false" | {number} | {string} | any_array | any_object'
        yield 'any_array: "[" (any ("," any)*)? "]"'
        yield f'any_object: "{{" ({string} ":" any ("," {string} ":" any)*)? "}}"'
