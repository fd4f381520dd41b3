"""Grammars over the tokens of one model: which tokens may follow in an answer, and when it is complete.

A grammar is a text that llguidance reads. Where an answer stands in it follows from that text and the answer's tokens
alone: whoever continues an answer replays its tokens, and allows what anybody else would. Import-light: the frontend
compiles what workers then follow. Knows texts, tokens and model folders. Does not know logits.
"""

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from engine.errors import InvalidRequest, Unsupported

MAX_GRAMMAR_BYTES = 256 * 1024
"""Of a grammar's text."""
LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
"""llguidance's own, but for memory: a lexer's state takes 1 to 2 kB. A token's mask takes at most some 20 ms."""

NUM_THREADS = 2
"""That compile."""

_MAX_KEPT = 32
_MAX_COPIES = 256
"""Copies of a grammar share a lexer, which grows with what answers say and is given up before it is too large."""
_STACK_BYTES = 256 * 2**20
"""Of a thread that compiles: llguidance goes into rules and references as deep as they lead. It is address space;
memory is taken as it is used."""

T = TypeVar("T")


class GrammarState:
    """Where one answer stands in its grammar. For one thread at a time."""

    __slots__ = ("mask_bytes", "matcher")

    def __init__(self, matcher: LLMatcher, mask_bytes: int) -> None:
        self.matcher = matcher
        self.mask_bytes = mask_bytes
        """Of a mask: a bit for every token, in words of 32."""

    def take(self, token: int) -> bool:
        """Take in the answer's next token; say whether the grammar allows nothing more, and none is missing."""
        return self.matcher.consume_token(token) and self.matcher.is_stopped()

    @property
    def error(self) -> str:
        """Why the answer cannot go on, empty if it can: known once a mask was asked for."""
        if not self.matcher.is_error():
            return ""
        message = _one_line(self.matcher.get_error())
        return "no token of the vocabulary can follow" if message == "NoExtensionBias" else message


@dataclass(slots=True)
class _Kept:
    """A grammar as it is before any token."""

    matcher: LLMatcher
    num_copies: int = 0


class Grammars:
    """The grammars of one model's answers. May be used by several threads."""

    def __init__(self, folder: Path, vocab_size: int, eos_token_ids: Collection[int]) -> None:
        """Of the model in `folder`, whose logits are `vocab_size` long. Reads nothing yet."""
        self._folder = folder
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="grammar")

    def run(self, function: Callable[..., T], *arguments: object) -> "asyncio.Future[T]":
        """Call what compiles on a thread that may, beside the event loop."""
        before = threading.stack_size(_STACK_BYTES)  # of threads that are started from here on
        try:
            return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        finally:
            threading.stack_size(before)

    def start(self, text: str, tokens: Sequence[int] = ()) -> GrammarState:
        """The state after `tokens` of an answer. Compiling may take a second; a grammar that is kept takes none.

        Raises InvalidRequest, in llguidance's words, for what is no grammar or not these tokens'; Unsupported where the
        model's tokenizer cannot be followed.
        """
        tokenizer = self.tokenizer
        matcher = self._copy(tokenizer, text)
        if tokens and not matcher.consume_tokens(list(tokens)):
            raise InvalidRequest("the tokens so far are not the beginning of an answer in the grammar", field="grammar")
        return GrammarState(matcher, -(-tokenizer.vocab_size // 32) * 4)

    @property
    def tokenizer(self) -> LLTokenizer:
        """Raises Unsupported for a tokenizer that llguidance does not know, and for models that have no end of text."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._open()
            return self._tokenizer

    @cached_property
    def special_tokens(self) -> Mapping[str, int]:
        """The tokens that no text is made of, and that a grammar names by number: ids by content."""
        spec = json.loads((self._folder / "tokenizer.json").read_text(encoding="utf-8"))
        added = {token["content"]: token["id"] for token in spec.get("added_tokens") or ()}
        return {content: token for content, token in added.items() if self.tokenizer.is_special_token(token)}

    def _open(self) -> LLTokenizer:
        path = self._folder / "tokenizer.json"
        if not self._eos_token_ids:
            raise Unsupported("the model names no end-of-text token, so no grammar could end an answer")
        try:
            content = path.read_text(encoding="utf-8").lstrip()
            return LLTokenizer(content, n_vocab=self._vocab_size, eos_token=self._eos_token_ids)
        except BaseException as error:
            if not _is_the_librarys(error):
                raise
            raise Unsupported(f"no grammar can follow this model's tokenizer: {_one_line(str(error))}") from error

    def _copy(self, tokenizer: LLTokenizer, text: str) -> LLMatcher:
        with self._lock:
            kept = self._kept.get(text)
            if kept is not None:
                self._kept.move_to_end(text)
        if kept is None or kept.num_copies >= _MAX_COPIES:
            kept = _Kept(_compile(tokenizer, text))
        copy = kept.matcher.deep_copy()
        with self._lock:
            kept.num_copies += 1
            self._kept[text] = kept
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return copy


def _compile(tokenizer: LLTokenizer, text: str) -> LLMatcher:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest("it holds half a surrogate pair", field="grammar") from error
    if size > MAX_GRAMMAR_BYTES:
        raise InvalidRequest(f"it has {size} bytes; at most {MAX_GRAMMAR_BYTES} are taken", field="grammar")
    try:
        matcher = LLMatcher(tokenizer, text, log_level=0, limits=LIMITS)
    except BaseException as error:
        if not _is_the_librarys(error):
            raise
        raise InvalidRequest(_one_line(str(error)), field="grammar") from error
    if matcher.is_error():
        raise InvalidRequest(_one_line(matcher.get_error()), field="grammar")
    return matcher


def _is_the_librarys(error: BaseException) -> bool:
    """Where its Rust panics, what it raises is not even an Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _one_line(message: str) -> str:
    return " ".join(message.replace("<non-verbose/>", "").split())[:500]
