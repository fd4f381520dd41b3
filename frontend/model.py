"""The model a frontend serves, as far as text is concerned: tokenizer, chat template, limits and defaults."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from frontend.text.template import ChatTemplate
from frontend.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """What the frontend knows of the model it serves. Limits of the context are those of the workers, in `Hello`."""

    name: str
    created: int
    tokenizer: Tokenizer
    template: ChatTemplate | None
    vocab_size: int
    max_context: int
    eos_token_ids: frozenset[int]
    defaults: Mapping[str, float]

    @classmethod
    def load(cls, folder: Path, name: str, chat_template: Path | None) -> "LoadedModel":
        """Raises ConfigError naming the file that is missing or makes no sense."""
        config = _read_json(folder / "config.json")
        generation_path = folder / "generation_config.json"
        generation = _read_json(generation_path) if generation_path.exists() else {}
        tokenizer = Tokenizer.load(folder)
        return cls(
            name=name,
            created=int(time.time()),
            tokenizer=tokenizer,
            template=ChatTemplate.load(folder, chat_template),
            vocab_size=_count(config, "vocab_size"),
            max_context=_count(config, "max_position_embeddings"),
            eos_token_ids=_ids(generation.get("eos_token_id", config.get("eos_token_id"))),
            defaults={field: value for field in DEFAULTS if (value := _number(generation.get(field))) is not None},
        )


DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Fields of generation_config.json that stand in for what a request does not give."""


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return content


def _count(config: Mapping[str, object], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"config.json: {name} is {value!r}, expected a positive integer", field=name)
    return value


def _ids(value: object) -> frozenset[int]:
    values = value if isinstance(value, list) else [value]
    return frozenset(item for item in values if isinstance(item, int))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
