"""Whether a model reasons before it answers, as Ollama's `think` asks for it.

Chat templates are told by variables, each by its own. Does not know how reasoning is told from an answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.errors import InvalidRequest
from frontend.api import ServedModel
from frontend.fields import UnsupportedParameter
from frontend.rest.ollama.request_types import OllamaAsk

SWITCHES = frozenset({"enable_thinking", "thinking"})
"""Variables by which templates turn reasoning on and off."""
LEVEL = "reasoning_effort"


@dataclass(frozen=True, slots=True)
class Thinking:
    is_on: bool = False
    """Reasoning is told from the answer; else it is part of it, if there is any."""
    variables: Mapping[str, object] = field(default_factory=dict)
    """Of the chat template."""


def thinking_of(given: OllamaAsk, served: ServedModel, *, is_told: bool = True) -> Thinking:
    """`is_told`: reasoning can be told from the answer to this prompt. Raises InvalidRequest for what cannot be."""
    think, is_formatted = given.think, given.format not in (None, "")
    if think and not served.reasons:
        raise InvalidRequest(f"{given.model!r} does not support thinking", field="think")
    if think and not is_told:
        message = "think is not supported with raw, suffix or context, or without a chat template"
        raise UnsupportedParameter(message, field="think")
    if think and is_formatted:
        raise UnsupportedParameter("think and format are not supported together by this server", field="think")
    if not served.reasons:
        return Thinking()
    switches = SWITCHES & served.template_variables
    if think is False and is_told and not switches:
        raise UnsupportedParameter("think: this model's chat template cannot turn reasoning off", field="think")
    if isinstance(think, str) and LEVEL not in served.template_variables:
        raise UnsupportedParameter("think: this model's chat template knows no levels; use true", field="think")
    is_on = bool(think) if think is not None else is_told and not is_formatted
    variables: dict[str, object] = dict.fromkeys(switches, is_on)
    return Thinking(is_on, variables | ({LEVEL: think} if isinstance(think, str) else {}))
