"""Prompts as vectors, for any dialect.

The vector of a prompt comes with the first token of an answer, and an answer of one token is all that is asked for: so
everything that holds for answers (queues, deadlines, limits of keys, workers that are lost) holds for vectors as well.
"""

import math
import sys
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from engine.errors import ConfigError
from engine.pooling import Pooling
from frontend.request import GenerateRequest, TokenPrompt
from frontend.text.tokenizer_config import read_json

POOLING_FILE = Path("1_Pooling", "config.json")
"""Where models that were made for this say how they are pooled (as Sentence Transformers writes it)."""
_MODES = {"pooling_mode_mean_tokens": Pooling.MEAN, "pooling_mode_lasttoken": Pooling.LAST}
_PREFIX = "pooling_mode_"


def embedding_request(prompt: str | TokenPrompt, model: str | None, pooling: Pooling) -> GenerateRequest:
    """What to generate for the vector of `prompt`; its `Finished` has it."""
    return GenerateRequest(prompt=prompt, model=model, max_tokens=1, temperature=0.0, pooling=pooling)


def floats(vector: bytes) -> "array[float]":
    """The numbers of little-endian float32."""
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def packed(values: "array[float]") -> bytes:
    """Little-endian float32 of the numbers."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def unit(values: "array[float]") -> "array[float]":
    """The vector of that direction and length 1; of zeros, itself."""
    length = math.hypot(*values)
    return array("f", [value / length for value in values]) if length else values


def pooling_of(folder: Path, choice: Literal["auto", "mean", "last"] = "auto") -> Pooling:
    """How the model's prompts become vectors; a model that does not say is pooled over all tokens. Raises ConfigError
    for what it says and we do not have."""
    if choice != "auto":
        return Pooling[choice.upper()]
    modes = _said(read_json(folder / POOLING_FILE))
    if not modes:
        return Pooling.MEAN
    if len(modes) == 1 and (pooling := _MODES.get(modes[0])):
        return pooling
    said = " and ".join(mode.removeprefix(_PREFIX) for mode in modes)
    message = f"{POOLING_FILE} asks for {said}; supported: mean_tokens, lasttoken (or --embedding-pooling)"
    raise ConfigError(message, field="embedding_pooling")


def _said(config: Mapping[str, object]) -> list[str]:
    return [name for name, value in config.items() if name.startswith(_PREFIX) and value is True]
