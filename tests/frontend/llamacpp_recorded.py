"""What llama.cpp's own server answered: the paths of the keys of its answers, status and type of its errors, and what a
small model said with the weights of stories260K in float32. `version` is that server's."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Request = tuple[str, str, Any]
"""Method, path and body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Entries are by a name for each; `event` says which one of a stream."""

    version: str
    model: str
    answers: dict[str, Json]
    slot_keys: list[str]
    errors: dict[str, Json]
    texts: dict[str, Json]
    """Of a request with a grammar without tokens, as there are several ways to write its text."""
    probabilities: Json


RECORDED = Recorded(**json.loads((Path(__file__).parent / "llamacpp_recorded.json").read_text()))
