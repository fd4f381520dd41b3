"""Grammars of text with JSON in it: calls as models write them, and structural tags.

Knows Lark, special tokens and where schemas stand; a schema is a grammar of its own, to which the text's refers by
name. Does not know who calls what, or how grammars are compiled.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest
from frontend.request import Grammar, GrammarKind
from frontend.schemas.given import check_schema, read_schema

MAX_TAGS = 256
WHITE_SPACE = r"[ \n\r\t]{1,20}"
"""Between two tokens of JSON."""
CALL_SPACE = r"[ \n]"
"""The same in the arguments of calls, which nobody reads but programs: at most one character."""

Write = Callable[[object, str], str]
"""The grammar of a schema, with so much white space. Raises InvalidRequest where it cannot be honoured."""


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of call: JSON that matches `schema` between two texts, in which special tokens may be spelled out."""

    begin: str
    schema: object
    end: str = ""
    name: str = ""
    """What a refusal calls it."""


@dataclass(frozen=True, slots=True)
class Thought:
    """What may come before the calls: any text between two, the first of which may have been said already."""

    open: str
    close: str
    begun: bool


def calls(
    kinds: Sequence[Call],
    *,
    prefix: str = "",
    separator: str | None = None,
    suffix: str = "",
    thought: Thought | None = None,
    marker: str | None = None,
    content: str | None = None,
) -> Grammar:
    """The grammar of an answer that is one call of any of these kinds, between `prefix` and `suffix`; of one or more if
    there is a text that separates them. Raises InvalidRequest for a schema that is too deep.

    With `content`, a JSON schema as text, it may be that instead, and is if there are no kinds of calls; calls must not
    begin as JSON does. With a `marker`, which `prefix` begins with, or each call if there is none, it is any text in
    which that is what the marker begins.
    """
    tags = [{"begin": kind.begin, "schema": kind.schema, "end": kind.end} for kind in kinds]
    wrapping = {"prefix": prefix, "separator": separator, "suffix": suffix}
    names = [kind.name for kind in kinds]
    before = None if thought is None else {"open": thought.open, "close": thought.close, "begun": thought.begun}
    given = {"calls": tags, "names": names, "thought": before, "marker": marker, "content": content, **wrapping}
    try:
        return Grammar(GrammarKind.CALLS, json.dumps(given))
    except RecursionError:
        raise InvalidRequest("the schema of a tool is nested too deeply", field="tools") from None


class Tagged:
    """One text with JSON in it."""

    def __init__(self, special_tokens: Mapping[str, int], write: Write) -> None:
        self._special_tokens = special_tokens
        self._write = write
        self._schemas: list[str] = []

    def structural_tag(self, text: str) -> str:
        """Text in which each trigger begins one of {"structures": [{"begin", "schema", "end"}], "triggers": ["..."]}.

        There may be any number of them, or none.
        """
        given = _object(text)
        given.pop("type", None)
        structures, triggers = given.pop("structures", None), given.pop("triggers", None)
        if given:
            raise InvalidRequest(f"{next(iter(given))} is not supported; give structures and triggers")
        tags = _tags(structures)
        if not isinstance(triggers, list) or not all(isinstance(each, str) and each for each in triggers):
            raise InvalidRequest("triggers is no list of texts that are not empty")
        rules = []
        for number, tag in enumerate(tags):
            trigger = next((each for each in triggers if tag.begin.startswith(each)), None)
            if trigger is None:
                raise InvalidRequest(f"no trigger begins {tag.begin!r}")
            rest = f"{self._literal(tag.begin[len(trigger) :])} {self._body(tag)} {self._literal(tag.end)}"
            if self._begins_special(trigger):
                rules.append(f"tag_{number}: TEXT {self._literal(trigger)} {rest}")
            else:
                rules.append(f"trigger_{number}[lazy]: TEXT {quoted(trigger)}\ntag_{number}: trigger_{number} {rest}")
        any_tag = " | ".join(f"tag_{number}" for number in range(len(tags)))
        return self._whole((f"start: ({any_tag})* end", "end: TEXT", r"TEXT: /(.|\n)*/", *rules))

    def calls(self, text: str) -> str:
        """What `calls` has put into a grammar."""
        given = _object(text)
        tags = _tags(given["calls"]) if given["calls"] else ()
        marker, prefix, separator = given["marker"] or "", given["prefix"], given["separator"]
        is_of_each = bool(marker) and not prefix
        many = "" if separator is None or is_of_each else f"({self._literal(separator)} call)*"
        wrapped = f"{self._literal(prefix.removeprefix(marker))} call {many} {self._literal(given['suffix'])}"
        rules = ["call: " + " | ".join(f"call_{number}" for number in range(len(tags)))] if tags else []
        for number, (tag, name) in enumerate(zip(tags, given["names"], strict=True)):
            begin = self._literal(tag.begin.removeprefix(marker) if is_of_each else tag.begin)
            rules.append(f"call_{number}: {begin} {self._body(tag, CALL_SPACE, name)} {self._literal(tag.end)}")
        start = wrapped
        if marker:
            start = f"(marked {wrapped})* end"
            rules += [f"marked{self._up_to(marker)}", "end: TEXT"]
        if given["content"] is not None:
            start = f"({start} | content)" if tags else "content"
            rules.append(f"content: {self._schema(read_schema(given['content']), WHITE_SPACE)}")
        if given["thought"] is not None:
            start = f"thought {start}"
            rules += self._thought(given["thought"])
        if marker or given["thought"] is not None:
            rules.append(r"TEXT: /(.|\n)*/")
        return self._whole((f"start: {start}", *rules))

    def _whole(self, rules: Sequence[str]) -> str:
        schemas = [{"name": f"schema_{number}", "lark_grammar": each} for number, each in enumerate(self._schemas)]
        return json.dumps({"grammars": [{"lark_grammar": "\n".join(rules)}, *schemas]}, ensure_ascii=False)

    def _body(self, tag: Call, white_space: str = WHITE_SPACE, name: str = "") -> str:
        try:
            return self._schema(tag.schema, white_space)
        except InvalidRequest as error:
            raise InvalidRequest(f"{error.message} (of {name})" if name else error.message) from error

    def _schema(self, schema: object, white_space: str) -> str:
        made = self._write(schema, white_space)
        if made not in self._schemas:
            self._schemas.append(made)
        return f"@schema_{self._schemas.index(made)}"

    def _up_to(self, mark: str) -> str:
        """The end of a rule for any text up to the first `mark`."""
        lazy = "" if self._begins_special(mark) else "[lazy]"
        return f"{lazy}: TEXT {self._literal(mark)}"

    def _thought(self, given: Mapping[str, Any]) -> Iterator[str]:
        """Its rules: up to the first text that closes it; what has not been begun may be left out."""
        yield "thought: closed" if given["begun"] else f"thought: ({self._literal(given['open'])} closed)?"
        yield "closed: end_of_thought /[ \\n]{0,4}/"
        yield f"end_of_thought{self._up_to(given['close'])}"

    def _literal(self, text: str) -> str:
        """`text` in Lark, special tokens that are spelled out in it by their ids; nothing for no text."""
        parts = split(text, self._special_tokens)
        return " ".join(f"<[{self._special_tokens[part]}]>" if index % 2 else quoted(part) for index, part in parts)

    def _begins_special(self, trigger: str) -> bool:
        """Whether a trigger is a special token, to which text may be added; if not, it must be text alone."""
        special = [index % 2 == 1 for index, _ in split(trigger, self._special_tokens)]
        if any(special) and not special[0]:
            raise InvalidRequest(f"the trigger {trigger!r} has a special token after text")
        return special[0]


def _object(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"it is not valid JSON: {error}") from error
    if not isinstance(given, dict):
        raise InvalidRequest("it is no JSON object")
    return given


def _tags(given: object) -> Sequence[Call]:
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_TAGS:
        raise InvalidRequest(f"it is no list of 1 to {MAX_TAGS} structures")
    tags = []
    for each in given:
        match each:
            case {"begin": str(begin), "schema": schema, "end": str(end), **rest} if begin and not rest:
                tags.append(Call(begin, check_schema(schema), end))
            case _:
                raise InvalidRequest("a structure has a begin that is not empty, a schema and an end, and nothing else")
    return tags


def split(text: str, special_tokens: Mapping[str, int]) -> list[tuple[int, str]]:
    """Plain parts, numbered evenly, and special tokens between them, oddly; without parts that are empty."""
    if not special_tokens:
        return [(0, text)] if text else []
    names = "|".join(re.escape(name) for name in sorted(special_tokens, key=len, reverse=True))
    return [(index, part) for index, part in enumerate(re.split(f"({names})", text)) if part]


def quoted(text: str) -> str:
    """A text in Lark."""
    return json.dumps(text, ensure_ascii=False)
