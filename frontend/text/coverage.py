"""How much text one token can stand for at most, read from a `tokenizer.json`: what a prompt may at most be long.

A token stands for no more characters than its own spelling has, if no character is ever left out and none shares a
token with others unless the vocabulary spells them together. So nothing is said of a tokenizer

- that makes one token of a run of unknown characters, or drops them: words, word pieces, and byte pairs that do not
  know every byte;
- whose normalizer or pre-tokenizer may drop text: white space, accents, control characters, whatever a pattern finds;
- of whose added tokens one takes in all white space beside it.

What rather shortens text than drops it is counted: a composed character is up to four, a replacement what it replaces.
"""

from collections.abc import Callable, Iterable, Mapping
from math import prod

import tokenizers

from frontend.text.pieces import BYTE_OF

MOST_COMPOSED = 4
"""Characters that Unicode composes into one at most: so many has the longest canonical decomposition."""
KEEPING = frozenset({"ByteLevel", "Metaspace", "Digits", "UnicodeScripts"})
"""Pre-tokenizers that leave nothing out."""
BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))


def max_chars_per_token(spec: object, backend: tokenizers.Tokenizer) -> int | None:
    """Of the tokenizer of this tokenizer.json, as it was loaded; None where a token may stand for any amount."""
    match spec:
        case {"model": {"type": "BPE", "vocab": dict(vocab)} as model, **rest}:
            before, added = rest.get("pre_tokenizer"), backend.get_added_tokens_decoder().values()
            shortened = prod(map(_shortening, _steps(rest.get("normalizer"), "normalizers")))
            keeps = all(map(_keeps, _steps(before, "pretokenizers")))
            if not (shortened and keeps and _knows_all(model, vocab, before)):
                return None
            if any(token.lstrip or token.rstrip for token in added):
                return None
            spelled = [*vocab, *_spellings((token.content for token in added), backend)]
            return shortened * max(map(len, spelled), default=1)
        case _:
            return None


def _steps(spec: object, parts: str) -> list[object]:
    """One step, those of a sequence, in which there may be others, or none."""
    match spec:
        case None:
            return []
        case {"type": "Sequence", **rest}:
            inner = rest.get(parts)
            return [step for part in inner for step in _steps(part, parts)] if isinstance(inner, list) else [spec]
        case _:
            return [spec]


def _shortening(normalizer: object) -> int:
    """How many characters may become one; 0: any number."""
    match normalizer:
        case {"type": "Prepend" | "Lowercase" | "NFD" | "NFKD"}:
            return 1
        case {"type": "NFC" | "NFKC"}:
            return MOST_COMPOSED
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old and new:
            return -(-len(old) // len(new))
        case _:
            return 0


def _keeps(pre_tokenizer: object) -> bool:
    match pre_tokenizer:
        case {"type": "Split" | "Punctuation", "behavior": str(behavior)}:
            return behavior != "Removed"
        case {"type": str(kind)}:
            return kind in KEEPING
        case _:
            return False


def _knows_all(model: Mapping[str, object], vocab: Mapping[str, object], pre_tokenizer: object) -> bool:
    """Whether each character becomes at least one token."""
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return False
    if any(
        isinstance(step, dict) and step.get("type") == "ByteLevel" for step in _steps(pre_tokenizer, "pretokenizers")
    ):
        return vocab.keys() >= BYTE_OF.keys()
    if model.get("byte_fallback") is True and vocab.keys() >= BYTE_TOKENS:
        return True
    return model.get("unk_token") in vocab and model.get("fuse_unk") is False


def _spellings(contents: Iterable[str], backend: tokenizers.Tokenizer) -> Iterable[str]:
    """Of added tokens, which are looked for in the text as it is or as the normalizer leaves it."""
    normalize: Callable[[str], str] = backend.normalizer.normalize_str if backend.normalizer else str
    for content in contents:
        yield content
        yield normalize(content)
