"""What an answer must match, from what a client says of it to the text that workers read.

Every kind becomes one text for llguidance (`engine.grammar`), and is tried on the model's own tokens before a worker
hears of it: what cannot be honoured is refused here, with the reason. Does not know dialects or workers.
"""

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

from engine.errors import InvalidRequest, TandemError, Unsupported
from engine.grammar import MAX_GRAMMAR_BYTES, NUM_THREADS, Grammars
from frontend.request import Grammar, GrammarKind
from frontend.schema import check_schema, read_schema, unsupported

COMPILE_S = 5.0
"""A grammar that takes longer is refused."""
MAX_CHOICES = 4_096
MAX_TAGS = 256
WHITE_SPACE = r"[ \n\r\t]{1,20}"
"""Between two tokens of JSON."""
CALL_SPACE = r"[ \n]"
"""The same in the arguments of calls, which nobody reads but programs: at most one character."""
MAX_GBNF_CHARS = 32_768
"""It is converted in Python, one character after the other."""

_MAX_KEPT = 512
_KEPT_BYTES = 16 * 2**20

_OPTIONS = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w-]*[ \t]*\[([^\]\n]*)\][ \t]*:", re.MULTILINE)
"""Of a rule in Lark: `name[lazy, stop="x"]: ...`"""
_REFUSED_OPTIONS = frozenset({"max_tokens", "stop", "stop_capture", "temperature"})


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


@dataclass(frozen=True, slots=True)
class _Outcome:
    text: str
    error: str = ""


class GrammarCompiler:
    """Compiles the grammars of one model's answers, off the event loop; what was compiled or refused is remembered."""

    def __init__(self, grammars: Grammars, special_ids: Collection[int]) -> None:
        """`special_ids` are the tokens that have no text in answers."""
        self._grammars = grammars
        self._special_ids = special_ids
        self._free = asyncio.Semaphore(NUM_THREADS)
        self._kept: OrderedDict[bytes, _Outcome] = OrderedDict()
        self._kept_bytes = 0

    async def compile(self, grammar: Grammar) -> str:
        """The grammar for workers. Raises InvalidRequest, with the reason, where it cannot be honoured; Unsupported
        where the model's tokenizer cannot be followed."""
        if len(grammar.text) > MAX_GRAMMAR_BYTES:
            message = f"the {grammar.kind} has {len(grammar.text)} characters; at most {MAX_GRAMMAR_BYTES} are taken"
            raise InvalidRequest(message, field="grammar")
        key = hashlib.sha256(f"{grammar.kind}:{grammar.text}".encode("utf-8", "surrogatepass")).digest()
        outcome = self._kept.get(key)
        if outcome is None:
            outcome = await self._compile_soon(grammar)
            self._keep(key, outcome)
        else:
            self._kept.move_to_end(key)
        if outcome.error:
            raise InvalidRequest(outcome.error, field="grammar")
        return outcome.text

    async def _compile_soon(self, grammar: Grammar) -> _Outcome:
        await self._free.acquire()
        compiling = self._grammars.run(self._compile, grammar)
        compiling.add_done_callback(lambda _: self._free.release())  # a thread is busy until it is done, wanted or not
        try:
            async with asyncio.timeout(COMPILE_S):
                return await asyncio.shield(compiling)
        except TimeoutError:
            return _Outcome("", f"the {grammar.kind} is too complex: it takes more than {COMPILE_S:g} s to compile")

    def _compile(self, grammar: Grammar) -> _Outcome:
        try:
            self._check_tokenizer()
            text = grammar_text(grammar, self._grammars.special_tokens)
            state = self._grammars.start(text)
            state.matcher.compute_logit_bias()  # a mask: whether there is a token to begin with
            if state.error:
                raise InvalidRequest(f"no answer can begin: {state.error}")
        except InvalidRequest as error:
            return _Outcome("", _refusal(grammar, error))
        except UnicodeEncodeError:
            return _Outcome("", f"the {grammar.kind} holds half a surrogate pair")
        return _Outcome(text)

    def _check_tokenizer(self) -> None:
        tokenizer = self._grammars.tokenizer
        for token in self._special_ids:
            if not tokenizer.is_special_token(token):
                raise Unsupported(
                    f"no grammar can follow this model's tokenizer: its tokenizer.json does not say that token {token} "
                    "is special, as the model's other files do",
                    field="grammar",
                )

    def _keep(self, key: bytes, outcome: _Outcome) -> None:
        if key in self._kept:
            return  # compiled twice at once
        self._kept[key] = outcome
        self._kept_bytes += len(outcome.text) + len(outcome.error)
        while len(self._kept) > _MAX_KEPT or self._kept_bytes > _KEPT_BYTES:
            _, old = self._kept.popitem(last=False)
            self._kept_bytes -= len(old.text) + len(old.error)


def grammar_text(grammar: Grammar, special_tokens: Mapping[str, int]) -> str:
    """What llguidance is to read. Raises InvalidRequest for what is malformed before that shows."""
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            return _json_grammar(read_schema(grammar.text))
        case GrammarKind.JSON_OBJECT:
            return _json_grammar({"type": "object"})
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(grammar.text)
        case GrammarKind.CHOICE:
            return _choice(grammar.text)
        case GrammarKind.LARK:
            return _lark(grammar.text)
        case GrammarKind.STRUCTURAL_TAG:
            return _structural_tag(grammar.text, special_tokens)
        case GrammarKind.CALLS:
            return _calls(grammar.text, special_tokens)


def _refusal(grammar: Grammar, error: TandemError) -> str:
    """In the words of whoever refused it, and where in a schema that is."""
    if error.message.startswith("the "):
        return error.message
    message = f"the {grammar.kind} cannot be honoured: {error.message}"
    places = list(islice(_unsupported(grammar), 8))
    return f"{message} (unsupported: {', '.join(places)})" if places else message


def _unsupported(grammar: Grammar) -> Iterator[str]:
    """Where keywords stand that no grammar can honour, in a grammar that was refused."""
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            yield from unsupported(read_schema(grammar.text))
        case GrammarKind.CALLS:
            given = _object(grammar.text)
            for name, tag in zip(given["names"], _call_tags(given), strict=True):
                yield from (f"{place} of {name}" for place in unsupported(tag.schema))
            if given["content"] is not None:
                yield from unsupported(read_schema(given["content"]))


def _json_grammar(schema: object) -> str:
    return json.dumps({"grammars": [{"json_schema": _spaced(schema)}]}, ensure_ascii=False)


def _spaced(schema: object, white_space: str = WHITE_SPACE) -> object:
    """Bounds the white space that llguidance would let a model write for ever."""
    if schema is False:
        return False
    return {**(schema if isinstance(schema, dict) else {}), "x-guidance": {"whitespace_pattern": white_space}}


def _choice(text: str) -> str:
    choices = json.loads(text)
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise InvalidRequest("it is no list of texts")
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise InvalidRequest(f"it has {len(choices)} texts; 1 to {MAX_CHOICES} are taken")
    return "start: CHOICE\nCHOICE: " + " | ".join(map(_quoted, choices))


def _lark(text: str) -> str:
    if not text.strip():
        raise InvalidRequest("it is empty")
    if text.lstrip().startswith("{"):
        raise InvalidRequest("it is neither Lark nor GBNF")
    if "::=" in text and not is_lark_syntax(text):
        if len(text) > MAX_GBNF_CHARS:
            raise InvalidRequest(f"GBNF has at most {MAX_GBNF_CHARS} characters, not {len(text)}")
        try:
            return gbnf_to_lark(text)
        except Exception as error:  # it raises its own, and what else its parser trips over
            raise InvalidRequest(f"it is no GBNF: {error}") from error
    for options in _OPTIONS.findall(text):
        for option in options.split(","):
            if (name := option.partition("=")[0].strip()) in _REFUSED_OPTIONS:
                raise InvalidRequest(f"the option {name} of a rule is not supported")
    return text


def _structural_tag(text: str, special_tokens: Mapping[str, int]) -> str:
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
        rest = f"{_literal(tag.begin[len(trigger) :], special_tokens)} {_body(tag)} {_literal(tag.end, special_tokens)}"
        if _begins_special(trigger, special_tokens):
            rules.append(f"tag_{number}: TEXT {_literal(trigger, special_tokens)} {rest}")
        else:
            rules.append(f"trigger_{number}[lazy]: TEXT {_quoted(trigger)}\ntag_{number}: trigger_{number} {rest}")
    any_tag = " | ".join(f"tag_{number}" for number in range(len(tags)))
    return "\n".join((f"start: ({any_tag})* end", "end: TEXT", r"TEXT: /(.|\n)*/", *rules))


def _calls(text: str, special_tokens: Mapping[str, int]) -> str:
    given = _object(text)
    tags = _call_tags(given)
    marker, prefix, separator = given["marker"] or "", given["prefix"], given["separator"]
    is_of_each = bool(marker) and not prefix
    many = "" if separator is None or is_of_each else f"({_literal(separator, special_tokens)} call)*"
    wrapped = f"{_literal(prefix.removeprefix(marker), special_tokens)} call {many} "
    wrapped += _literal(given["suffix"], special_tokens)
    rules = ["call: " + " | ".join(f"call_{number}" for number in range(len(tags)))] if tags else []
    for number, tag in enumerate(tags):
        begin = _literal(tag.begin.removeprefix(marker) if is_of_each else tag.begin, special_tokens)
        rules.append(f"call_{number}: {begin} {_body(tag, CALL_SPACE)} {_literal(tag.end, special_tokens)}")
    start = wrapped
    if marker:
        start = f"(marked {wrapped})* end"
        rules += [f"marked{_up_to(marker, special_tokens)}", "end: TEXT"]
    if given["content"] is not None:
        start = f"({start} | content)" if tags else "content"
        rules.append(f"content: %json {json.dumps(_spaced(read_schema(given['content'])), ensure_ascii=False)}")
    if given["thought"] is not None:
        start = f"thought {start}"
        rules += _thought(given["thought"], special_tokens)
    if marker or given["thought"] is not None:
        rules.append(r"TEXT: /(.|\n)*/")
    return "\n".join((f"start: {start}", *rules))


def _call_tags(given: Mapping[str, Any]) -> Sequence[Call]:
    return _tags(given["calls"]) if given["calls"] else ()


def _up_to(mark: str, special_tokens: Mapping[str, int]) -> str:
    """The end of a rule for any text up to the first `mark`."""
    lazy = "" if _begins_special(mark, special_tokens) else "[lazy]"
    return f"{lazy}: TEXT {_literal(mark, special_tokens)}"


def _thought(given: Mapping[str, Any], special_tokens: Mapping[str, int]) -> Iterator[str]:
    """Its rules: up to the first text that closes it; what has not been begun may be left out."""
    opening = _literal(given["open"], special_tokens)
    yield "thought: closed" if given["begun"] else f"thought: ({opening} closed)?"
    yield "closed: end_of_thought /[ \\n]{0,4}/"
    yield f"end_of_thought{_up_to(given['close'], special_tokens)}"


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


def _body(tag: Call, white_space: str = WHITE_SPACE) -> str:
    return f"%json {json.dumps(_spaced(tag.schema, white_space), ensure_ascii=False)}"


def _literal(text: str, special_tokens: Mapping[str, int]) -> str:
    """`text` in Lark, special tokens that are spelled out in it by their ids; nothing for no text."""
    parts = _split(text, special_tokens)
    return " ".join(f"<[{special_tokens[part]}]>" if index % 2 else _quoted(part) for index, part in parts)


def _split(text: str, special_tokens: Mapping[str, int]) -> list[tuple[int, str]]:
    """Plain parts, numbered evenly, and special tokens between them, oddly; without parts that are empty."""
    if not special_tokens:
        return [(0, text)] if text else []
    names = "|".join(re.escape(name) for name in sorted(special_tokens, key=len, reverse=True))
    return [(index, part) for index, part in enumerate(re.split(f"({names})", text)) if part]


def _begins_special(trigger: str, special_tokens: Mapping[str, int]) -> bool:
    """Whether a trigger is a special token, to which text may be added; if not, it must be text alone."""
    special = [index % 2 == 1 for index, _ in _split(trigger, special_tokens)]
    if any(special) and not special[0]:
        raise InvalidRequest(f"the trigger {trigger!r} has a special token after text")
    return special[0]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
