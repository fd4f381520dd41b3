"""Prompts that ask for what stands between two texts, for models that have learnt tokens for it.

Knows how families call these tokens, and how they are put together, with other files as llama.cpp does. Does not know
dialects.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from engine.errors import ContextOverflow, Unsupported
from frontend.request import Infill, TokenPrompt

PROJECT = "myproject\n"
"""Names the repository of models that want to be told."""
OTHER_FILE = "tmp"
THIS_FILE = "filename"
SNIPPET = "\n\n--- snippet ---\n\n"
"""Before each other file, for models that have no token for that."""


MAX_CHARS = 1 << 21
"""Of what is tokenized piece by piece; no context has room for more."""


class Tokenize(Protocol):
    """Of the model that is asked."""

    def __call__(self, text: str, *, add_special_tokens: bool | None = None) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class FimTokens:
    """What one family calls its tokens."""

    prefix: str
    suffix: str
    middle: str
    repository: str | None = None
    file: str | None = None


FAMILIES = (
    FimTokens("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"),
    FimTokens("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<repo_name>", "<file_sep>"),
    FimTokens("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    FimTokens("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    FimTokens("▁<PRE>", "▁<SUF>", "▁<MID>"),
)


def _token(tokenize: Tokenize, name: str | None) -> list[int]:
    """None, or the one."""
    ids = [] if name is None else tokenize(name, add_special_tokens=False)
    return ids if len(ids) == 1 else []


def fim_tokens(tokenize: Tokenize) -> FimTokens | None:
    """Those of the model, if it has any."""
    token = partial(_token, tokenize)
    return next((each for each in FAMILIES if all(map(token, (each.prefix, each.suffix, each.middle)))), None)


def infill_tokens(given: Infill, tokenize: Tokenize, *, add_special_tokens: bool = True) -> list[int]:
    """Without `add_special_tokens`, the token that texts begin with is left out.

    Raises Unsupported for a model that has no such tokens, ContextOverflow for more than is worth tokenizing.
    """

    def text(content: str | TokenPrompt) -> list[int]:
        return list(content.ids) if isinstance(content, TokenPrompt) else tokenize(content, add_special_tokens=False)

    token = partial(_token, tokenize)
    names = fim_tokens(tokenize)
    prefix = given.prefix if isinstance(given.prefix, str) else ""
    check_chars((prefix, given.suffix, given.begun, *(other.text for other in given.others)))
    if names is None:
        message = "infill is not supported by this model: it has no tokens for prefix, suffix and middle"
        raise Unsupported(message, field="infill")
    repository, file = (token(name) if given.with_file else [] for name in (names.repository, names.file))
    ids = tokenize("", add_special_tokens=True)[:1] if add_special_tokens else []
    if repository:
        ids += repository + text(PROJECT)
    for other in given.others:
        ids += file + text(f"{other.name or OTHER_FILE}\n") if file else text(SNIPPET)
        ids += text(other.text)
    if file:
        ids += file + text(f"{THIS_FILE}\n")
    ids += token(names.prefix) + text(given.prefix) + text(given.begun)
    return ids + token(names.suffix) + text(given.suffix) + token(names.middle)


def check_chars(texts: Iterable[str]) -> None:
    """Raise ContextOverflow for more than is worth tokenizing."""
    if sum(map(len, texts)) > MAX_CHARS:
        raise ContextOverflow(f"the prompt has more than {MAX_CHARS} characters", field="prompt")
