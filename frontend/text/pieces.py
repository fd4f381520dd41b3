"""What each token stands for, in bytes: the decoder of a `tokenizer.json`, taken apart into one piece per token.

    byte-level BPE    'Ġworld'  →  b' world'     every character of a token names one byte
    SentencePiece     '▁world'  →  b' world'     and '<0xE2>' is one byte
    no decoder        'world'   →  b' world'     tokens are words

A text is the bytes of its pieces, joined, as UTF-8; no piece depends on its neighbours. Only the beginning differs:
decoders that put a space before a word drop it again where the text starts (`max_lead_spaces`).
"""

import re
from dataclasses import dataclass

import tokenizers

from engine.errors import ConfigError

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's names of the 256 bytes: printable ones stand for themselves, the others for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_level_alphabet()


@dataclass(frozen=True, slots=True)
class PieceDecoder:
    """Turns the name of a token, as the vocabulary spells it, into the bytes it stands for."""

    byte_level: bool = False
    byte_fallback: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    max_lead_spaces: int = 0
    """Spaces that are dropped where a text starts."""

    @classmethod
    def parse(cls, spec: object) -> "PieceDecoder":
        """From the `decoder` of a tokenizer.json. Raises ConfigError for one whose pieces depend on neighbours."""
        match spec:
            case None:
                return cls(prefix=" ", max_lead_spaces=1)
            case {"type": "ByteLevel"}:
                return cls(byte_level=True)
            case {"type": "Metaspace", "replacement": str(mark), **rest}:
                strips = rest.get("prepend_scheme", "always") != "never" and rest.get("add_prefix_space") is not False
                return cls(replacements=((mark, " "),), max_lead_spaces=int(strips))
            case {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}:
                return cls(byte_level=True)
            case {"type": "Sequence", "decoders": [*steps]}:
                return cls._of_steps(steps)
            case _:
                return cls._of_steps([spec])

    @classmethod
    def _of_steps(cls, steps: list[object]) -> "PieceDecoder":
        replacements: list[tuple[str, str]] = []
        byte_fallback, fused, lead = False, False, 0
        for step in steps:
            match step:
                case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if not fused:
                    replacements.append((old, new))
                case {"type": "ByteFallback"}:
                    byte_fallback = True
                case {"type": "Fuse"}:
                    fused = True
                case {"type": "Strip", "content": " ", "start": int(lead), "stop": 0} if fused:
                    pass
                case _:
                    raise ConfigError(f"this tokenizer's decoder cannot be streamed: {step}")
        return cls(byte_fallback=byte_fallback, replacements=tuple(replacements), max_lead_spaces=lead)

    def piece(self, token: str) -> bytes:
        """The bytes of `token`."""
        if self.byte_level:
            try:
                return bytes([BYTE_OF[char] for char in token])
            except KeyError:  # an added token, spelled as it is
                return token.encode()
        for old, new in self.replacements:
            token = token.replace(old, new)
        if self.byte_fallback and (match := BYTE_TOKEN.fullmatch(token)):
            return bytes.fromhex(match[1])
        return (self.prefix + token).encode()


class Pieces(dict[int, bytes]):
    """Bytes of tokens by id, found when first asked for. `hidden` tokens and unknown ids have none."""

    def __init__(self, backend: tokenizers.Tokenizer, decoder: PieceDecoder, hidden: frozenset[int]) -> None:
        super().__init__()
        self._backend = backend
        self._decoder = decoder
        self._hidden = hidden

    def __missing__(self, token_id: int) -> bytes:
        try:
            token = self._backend.id_to_token(token_id)
        except OverflowError:
            return b""
        if token is None:  # not kept: models may have more ids than their tokenizer, callers any number
            return b""
        piece = self[token_id] = b"" if token_id in self._hidden else self._decoder.piece(token)
        return piece
