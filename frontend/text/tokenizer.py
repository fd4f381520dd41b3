"""Text to token ids and back, for one model; wraps the tokenizers library.

Encoding is the library's. Decoding is ours (`pieces`), so that a streamed answer and a whole one are the same text. It
gives what the library gives, with one difference: where SentencePiece byte tokens do not make up UTF-8, each faulty
part becomes U+FFFD, and valid characters beside it stay; the library replaces every byte of such a run.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers

from engine.errors import ConfigError, InvalidRequest
from frontend.text.coverage import max_chars_per_token
from frontend.text.pieces import PieceDecoder, Pieces
from frontend.text.spans import Span
from frontend.text.tokenizer_config import TokenizerConfig

_PATHS = frozenset({"name_or_path", "vocab_file", "merges_file", "tokenizer_file", "special_tokens_map_file"})
"""Names in tokenizer_config.json for where a model was when it was saved."""


LONG_CHARS = 8_192
"""Longer texts are encoded as a batch of one: there alone the library lets other threads run meanwhile."""


class Tokenizer:
    """The tokenizer of one model; safe to use from several threads."""

    def __init__(
        self, backend: tokenizers.Tokenizer, decoder: PieceDecoder, config: TokenizerConfig, spec: object
    ) -> None:
        """`spec` is the content of the tokenizer.json that `backend` was made of."""
        backend.no_truncation()
        backend.no_padding()
        _add_tokens(backend, config)
        self._backend = backend
        self.max_chars_per_token = max_chars_per_token(spec, backend)
        """None: a token may stand for any amount of text."""
        self.bos_token = config.special_tokens.get("bos_token")
        self.eos_token = config.special_tokens.get("eos_token")
        kept = {name: value for name, value in config.content.items() if name not in _PATHS}
        self.config: Mapping[str, object] = {**kept, **config.special_tokens}
        """What the model's files say of it, with special tokens as texts."""
        self.max_lead_spaces = decoder.max_lead_spaces
        """Spaces that decoding drops where a text starts."""
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._all_pieces = Pieces(backend, decoder, hidden=frozenset())
        self._decoder = decoder
        self._text_pieces: dict[frozenset[str], Pieces] = {}
        """By the special tokens that are shown nevertheless."""
        # A post-processor that adds tokens knows best; the flags speak where there is none.
        adds_tokens = backend.num_special_tokens_to_add(is_pair=False) > 0
        self._prefix = [] if adds_tokens else self._ids_of(self.bos_token, config.add_bos_token)
        self._suffix = [] if adds_tokens else self._ids_of(self.eos_token, config.add_eos_token)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """From a model folder. Raises ConfigError, naming the file, if one is missing or broken."""
        path = folder / "tokenizer.json"
        try:
            content = path.read_text(encoding="utf-8")
            spec = json.loads(content)
            decoder = PieceDecoder.parse(spec.get("decoder"))
            backend = tokenizers.Tokenizer.from_str(content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}") from error
        except BaseException as error:
            if not _is_the_librarys(error):
                raise
            raise ConfigError(f"{path} cannot be read: {error}") from error
        return cls(backend, decoder, TokenizerConfig.load(folder), spec)

    @property
    def vocab_size(self) -> int:
        """Ids are below this; the model may have more."""
        return max(self._backend.get_vocab_size(with_added_tokens=True), max(self.special_ids, default=-1) + 1)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """The ids of `text`; special tokens spelled out in it become their ids.

        What a chat template rendered has its special tokens already: encode it with `add_special_tokens=False`.
        Raises InvalidRequest if `text` holds half a surrogate pair.
        """
        ids: list[int] = self._encoded(text, add_special_tokens).ids
        return [*self._prefix, *ids, *self._suffix] if add_special_tokens else ids

    def spans(self, text: str, *, add_special_tokens: bool = True) -> list[Span]:
        """What `encode` gives, and where in `text` each token stands; those that were added stand nowhere: at 0, empty.
        Raises as `encode`."""
        encoded = self._encoded(text, add_special_tokens)
        spans = [Span(token_id, *ends) for token_id, ends in zip(encoded.ids, encoded.offsets, strict=True)]
        if not add_special_tokens:
            return spans
        prefix, suffix = ([Span(token_id, 0, 0) for token_id in ids] for ids in (self._prefix, self._suffix))
        return [*prefix, *spans, *suffix]

    def most_chars(self, num_tokens: int) -> int | None:
        """A longer text is certain to have more tokens than that; None where no text is."""
        return None if self.max_chars_per_token is None else num_tokens * self.max_chars_per_token

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids` from its start; unknown ids have none, bytes that are not UTF-8 become U+FFFD."""
        pieces = self.pieces(skip_special_tokens=skip_special_tokens)
        data = b"".join([pieces[token_id] for token_id in ids])
        lead = len(data) - len(data.lstrip(b" "))
        return data[min(lead, self.max_lead_spaces) :].decode("utf-8", "replace")

    def pieces(self, *, skip_special_tokens: bool, shown: frozenset[str] = frozenset()) -> Pieces:
        """Bytes by token id; with `skip_special_tokens`, special ones have none, but for those in `shown`."""
        if not skip_special_tokens:
            return self._all_pieces
        if (found := self._text_pieces.get(shown)) is None:
            hidden = self.special_ids - {self._backend.token_to_id(word) for word in shown}
            found = self._text_pieces[shown] = Pieces(self._backend, self._decoder, hidden=hidden)
        return found

    def word(self, token_id: int) -> str:
        """The token as it stands in the vocabulary; empty for an id that is not there."""
        return self._backend.id_to_token(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes:
        """Exactly what the token stands for, special ones too; maybe a part of a character."""
        return self._all_pieces[token_id]

    def token_text(self, token_id: int) -> str:
        """The token for people to read: bytes that are no character by themselves are U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def _encoded(self, text: str, add_special_tokens: bool) -> tokenizers.Encoding:
        try:
            if len(text) > LONG_CHARS:
                return self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0]
            return self._backend.encode(text, add_special_tokens=add_special_tokens)
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidRequest("the text is not valid Unicode: it holds half a surrogate pair") from error

    def _ids_of(self, token: str | None, wanted: bool) -> list[int]:
        token_id = self._backend.token_to_id(token) if wanted and token is not None else None
        return [] if token_id is None else [token_id]


def _is_the_librarys(error: BaseException) -> bool:
    """It raises nothing narrower than Exception; where its Rust panics, not even that."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _add_tokens(backend: tokenizers.Tokenizer, config: TokenizerConfig) -> None:
    """Make special what the configuration calls special, as far as the vocabulary has it."""
    known = backend.get_added_tokens_decoder()
    for token_id, token in sorted(config.added_tokens.items()):
        is_known = token_id in known and known[token_id].special == token.special
        if not is_known and backend.token_to_id(token.content) == token_id:
            added = tokenizers.AddedToken(
                token.content,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=token.normalized,
                special=token.special,
            )
            backend.add_tokens([added])
    named = {*config.special_tokens.values(), *config.extra_special_tokens}
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    missing = sorted(token for token in named - special if backend.token_to_id(token) is not None)
    backend.add_special_tokens(missing)
