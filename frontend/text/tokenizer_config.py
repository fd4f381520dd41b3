"""What a model folder says about its tokenizer beside `tokenizer.json`: special tokens by name, flags, templates.

Reads `tokenizer_config.json` and, for names missing there, `special_tokens_map.json`. Both may be absent. Does not know
what any of it is used for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import ConfigError

MAX_ID_DIGITS = 10


@dataclass(frozen=True, slots=True)
class NamedToken:
    """A token of `added_tokens_decoder`; fields as the tokenizers library names them."""

    content: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False
    special: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerConfig:
    """The parts of a tokenizer's configuration that serving needs."""

    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """Content by name: `{"bos_token": "<s>", ...}`; tokens that are null are left out."""
    extra_special_tokens: tuple[str, ...] = ()
    added_tokens: Mapping[int, NamedToken] = field(default_factory=dict)
    add_bos_token: bool = False
    add_eos_token: bool = False
    chat_template: object = None
    """As it stands in the file: a string, or a list of named ones."""
    content: Mapping[str, object] = field(default_factory=dict)
    """All of `tokenizer_config.json`."""

    @classmethod
    def load(cls, folder: Path) -> "TokenizerConfig":
        """Raises ConfigError, naming the file, if one of them is broken."""
        config = read_json(folder / "tokenizer_config.json")
        named = {**_contents(read_json(folder / "special_tokens_map.json")), **_contents(config)}
        extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
        return cls(
            special_tokens={name: content for name, content in named.items() if name.endswith("_token")},
            extra_special_tokens=tuple(filter(None, map(_content, extra))) if isinstance(extra, list) else (),
            added_tokens=_added_tokens(config.get("added_tokens_decoder")),
            add_bos_token=config.get("add_bos_token") is True,
            add_eos_token=config.get("add_eos_token") is True,
            chat_template=config.get("chat_template"),
            content=config,
        )


def read_json(path: Path) -> dict[str, object]:
    """The object in the file; empty if there is no file. Raises ConfigError if it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no JSON object")
    return content


def _contents(config: Mapping[str, object]) -> dict[str, str]:
    found = {name: _content(value) for name, value in config.items()}
    return {name: content for name, content in found.items() if content is not None}


def _content(value: object) -> str | None:
    """The text of a token that is written as a string or as an AddedToken."""
    match value:
        case str(content) | {"content": str(content)}:
            return content
        case _:
            return None


def _added_tokens(value: object) -> dict[int, NamedToken]:
    if not isinstance(value, dict):
        return {}
    tokens = {}
    for key, spec in value.items():
        if key.isdecimal() and len(key) < MAX_ID_DIGITS and (content := _content(spec)) is not None:
            flags = spec if isinstance(spec, dict) else {}
            tokens[int(key)] = NamedToken(
                content,
                lstrip=flags.get("lstrip") is True,
                rstrip=flags.get("rstrip") is True,
                single_word=flags.get("single_word") is True,
                normalized=flags.get("normalized") is True,
                special=flags.get("special") is True,
            )
    return tokens
