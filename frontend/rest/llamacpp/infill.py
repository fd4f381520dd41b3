"""Prompts that ask for what stands between two texts, for models that have learnt tokens for it.

Knows how families call these tokens, and how llama.cpp puts them together. Does not know requests' other parameters.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.errors import ContextOverflow, Unsupported
from frontend.request import TokenPrompt
from frontend.rest.llamacpp.request_types import LlamaInfillRequest

PROJECT = "myproject\n"
"""Names the repository of models that want to be told."""
OTHER_FILE = "tmp"
THIS_FILE = "filename"
SNIPPET = "\n\n--- snippet ---\n\n"
"""Before each other file, for models that have no token for that."""


MAX_CHARS = 1 << 21
"""Of what is tokenized piece by piece; no context has room for more."""


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


def infill_prompt(given: LlamaInfillRequest, tokenize: Callable[..., list[int]]) -> TokenPrompt:
    """Raises Unsupported for a model that has no such tokens."""

    def token(name: str | None) -> list[int]:
        """None, or the one."""
        ids = [] if name is None else tokenize(name, add_special_tokens=False)
        return ids if len(ids) == 1 else []

    def text(content: str) -> list[int]:
        return tokenize(content, add_special_tokens=False)

    names = next((each for each in FAMILIES if all(map(token, (each.prefix, each.suffix, each.middle)))), None)
    extras = given.input_extra or ()
    check_chars((given.input_prefix, given.input_suffix, given.prompt or "", *(extra.text for extra in extras)))
    if names is None:
        raise Unsupported("infill is not supported by this model: it has no tokens for prefix, suffix and middle")
    repository, file = token(names.repository), token(names.file)
    ids = tokenize("", add_special_tokens=True)[:1]  # the one that texts begin with, where there is one
    if repository:
        ids += repository + text(PROJECT)
    for extra in extras:
        ids += file + text(f"{extra.filename or OTHER_FILE}\n") if file else text(SNIPPET)
        ids += text(extra.text)
    if file:
        ids += file + text(f"{THIS_FILE}\n")
    ids += token(names.prefix) + text(given.input_prefix) + text(given.prompt or "")
    return TokenPrompt(tuple(ids + token(names.suffix) + text(given.input_suffix) + token(names.middle)))


def check_chars(texts: Iterable[str]) -> None:
    """Raise ContextOverflow for more than is worth tokenizing."""
    if sum(map(len, texts)) > MAX_CHARS:
        raise ContextOverflow(f"the prompt has more than {MAX_CHARS} characters", field="prompt")
