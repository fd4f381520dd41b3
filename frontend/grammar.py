"""What an answer must match, from what a client says of it to the text that workers read.

Every kind becomes one text for llguidance (`engine.grammar`), and is tried on the model's own tokens before a worker
hears of it: what cannot be honoured is refused here, with the reason. Does not know dialects or workers.
"""

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

from engine.errors import InvalidRequest, TandemError, Unsupported
from engine.grammar import MAX_GRAMMAR_BYTES, NUM_THREADS, Grammars
from frontend.request import Grammar, GrammarKind
from frontend.schemas.given import read_schema
from frontend.schemas.places import Documents, no_documents
from frontend.schemas.writer import write
from frontend.tags import WHITE_SPACE, Tagged, quoted

COMPILE_S = 5.0
"""A grammar that takes longer is refused."""
MAX_CHOICES = 4_096
MAX_GBNF_CHARS = 32_768
"""It is converted in Python, one character after the other."""

_OF_SCHEMAS = frozenset(
    {GrammarKind.JSON_SCHEMA, GrammarKind.JSON_OBJECT, GrammarKind.CALLS, GrammarKind.STRUCTURAL_TAG}
)
"""Kinds whose grammars are written here, so that what is wrong with one is how much there is of it."""
_MAX_KEPT = 512
_KEPT_BYTES = 16 * 2**20

_OPTIONS = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w-]*[ \t]*\[([^\]\n]*)\][ \t]*:", re.MULTILINE)
"""Of a rule in Lark: `name[lazy, stop="x"]: ...`"""
_REFUSED_OPTIONS = frozenset({"max_tokens", "stop", "stop_capture", "temperature"})


@dataclass(frozen=True, slots=True)
class _Outcome:
    text: str
    error: str = ""


class GrammarCompiler:
    """Compiles the grammars of one model's answers, off the event loop; what was compiled or refused is remembered."""

    def __init__(self, grammars: Grammars, special_ids: Collection[int], documents: Documents = no_documents) -> None:
        """`special_ids` are the tokens that have no text in answers; `documents` those that schemas may refer to."""
        self._grammars = grammars
        self._special_ids = special_ids
        self._documents = documents
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
            text = grammar_text(grammar, self._grammars.special_tokens, self._documents)
            self._begin(grammar, text)
        except InvalidRequest as error:
            return _Outcome("", _refusal(grammar, error))
        except UnicodeEncodeError:
            return _Outcome("", f"the {grammar.kind} holds half a surrogate pair")
        return _Outcome(text)

    def _begin(self, grammar: Grammar, text: str) -> None:
        """Raises InvalidRequest if no answer can begin."""
        try:
            state = self._grammars.start(text)
            state.matcher.compute_logit_bias()  # a mask: whether there is a token to begin with
            if state.error:
                raise InvalidRequest(f"no answer can begin: {state.error}")
        except InvalidRequest as error:
            if grammar.kind not in _OF_SCHEMAS:
                raise
            why = "its grammar cannot be followed; pattern, enum, maxLength and the like may make it too large"
            raise InvalidRequest(f"{why}: {error.message[:120]}") from error

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


def grammar_text(grammar: Grammar, special_tokens: Mapping[str, int], documents: Documents = no_documents) -> str:
    """What llguidance is to read. Raises InvalidRequest for what is malformed before that shows, or cannot be said."""
    tagged = Tagged(special_tokens, partial(write, documents=documents))
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            return write(read_schema(grammar.text), WHITE_SPACE, documents)
        case GrammarKind.JSON_OBJECT:
            return write({"type": "object"}, WHITE_SPACE, documents)
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(grammar.text)
        case GrammarKind.CHOICE:
            return _choice(grammar.text)
        case GrammarKind.LARK:
            return _lark(grammar.text)
        case GrammarKind.STRUCTURAL_TAG:
            return tagged.structural_tag(grammar.text)
        case GrammarKind.CALLS:
            return tagged.calls(grammar.text)


def _refusal(grammar: Grammar, error: TandemError) -> str:
    """In the words of whoever refused it."""
    return (
        error.message if error.message.startswith("the ") else f"the {grammar.kind} cannot be honoured: {error.message}"
    )


def _choice(text: str) -> str:
    choices = json.loads(text)
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise InvalidRequest("it is no list of texts")
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise InvalidRequest(f"it has {len(choices)} texts; 1 to {MAX_CHOICES} are taken")
    return "start: CHOICE\nCHOICE: " + " | ".join(map(quoted, choices))


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
