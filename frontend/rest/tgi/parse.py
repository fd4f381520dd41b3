"""From the bytes of a TGI request to what the frontend is asked for.

Ranges that bind every dialect are left to `frontend.checks.resolve`; `NAMES` says what its fields are called here.
What a request leaves out is as TGI has it, whatever the model's files say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from engine.errors import InvalidRequest
from frontend.checks import MAX_STOP_STRINGS, check_count
from frontend.fields import Off, convert, decode_body, supported
from frontend.request import GenerateRequest, Grammar, GrammarKind
from frontend.rest.tgi.request_types import (
    MAX_BEST_OF,
    PARAMETERS_OFF,
    TgiCompatRequest,
    TgiGrammar,
    TgiParameters,
    TgiRequest,
)

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "inputs",
        "max_tokens": "max_new_tokens",
        "truncate_prompt": "truncate",
        "logprobs": "top_n_tokens",
        "prompt_logprobs": "decoder_input_details",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the generating paths spell differently."""

    kind: type[TgiRequest]
    off: Off
    streams: bool
    """Unless the body says."""
    in_list: bool
    """A whole answer is the only item of a list."""


ROOT = Form(kind=TgiCompatRequest, off=MappingProxyType({}), streams=False, in_list=True)
GENERATE = Form(kind=TgiRequest, off=MappingProxyType({"stream": (False,)}), streams=False, in_list=False)
GENERATE_STREAM = Form(kind=TgiRequest, off=MappingProxyType({"stream": (True,)}), streams=True, in_list=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one HTTP request asks for: the best of so many answers."""

    generation: GenerateRequest
    best_of: int
    stream: bool
    details: bool
    inputs: str
    return_full_text: bool

    @property
    def generations(self) -> list[GenerateRequest]:
        """What is said of the inputs is said to the first."""
        others = replace(self.generation, prompt_logprobs=None)
        return [self.generation, *([others] * (self.best_of - 1))]

    @property
    def prefix(self) -> str:
        """Of the answer's text."""
        return self.inputs if self.return_full_text else ""

    @property
    def is_sampled(self) -> bool:
        return self.generation.temperature != 0


def parse(body: bytes, form: Form) -> Ask:
    """Raises InvalidRequest."""
    fields = supported(decode_body(body), form.kind, form.off)
    if isinstance(parameters := fields.get("parameters"), dict):
        fields["parameters"] = kept = supported(parameters, TgiParameters, PARAMETERS_OFF, "parameters.")
        if isinstance(stop := kept.get("stop"), list):
            check_count(stop, MAX_STOP_STRINGS, "stop")
    given = convert(fields, form.kind)
    if not given.inputs:
        raise InvalidRequest("inputs is empty", field="inputs")
    asked = TgiParameters(do_sample=True) if given.parameters is None else given.parameters
    stream = form.streams if not isinstance(given, TgiCompatRequest) else bool(given.stream)
    best_of = 1 if asked.best_of is None else asked.best_of
    _check(asked, best_of, stream=stream)
    details = bool(asked.details or asked.decoder_input_details)
    return Ask(
        generation=_generation(given.inputs, asked, with_tokens=stream or details or best_of > 1),
        best_of=best_of,
        stream=stream,
        details=details,
        inputs=given.inputs,
        return_full_text=bool(asked.return_full_text),
    )


def _check(asked: TgiParameters, best_of: int, *, stream: bool) -> None:
    """What only TGI forbids."""
    if asked.temperature is not None and asked.temperature <= 0:
        raise InvalidRequest("temperature must be above 0; answers are greedy without it", field="temperature")
    if asked.top_p is not None and asked.top_p <= 0:
        raise InvalidRequest(f"top_p must be above 0, not {asked.top_p}", field="top_p")
    if asked.top_k is not None and asked.top_k < 1:
        raise InvalidRequest(f"top_k must be at least 1, not {asked.top_k}", field="top_k")
    if not 1 <= best_of <= MAX_BEST_OF:
        raise InvalidRequest(f"best_of must be between 1 and {MAX_BEST_OF}, not {best_of}", field="best_of")
    if stream and asked.decoder_input_details:
        message = "decoder_input_details is not supported in a stream"
        raise InvalidRequest(message, field="decoder_input_details")
    if best_of == 1:
        return
    if stream:
        raise InvalidRequest("best_of must be 1 in a stream", field="best_of")
    if not _is_sampled(asked):
        raise InvalidRequest("best_of above 1 needs do_sample: all greedy answers are the same", field="best_of")
    if asked.seed is not None:
        raise InvalidRequest("best_of above 1 and seed exclude each other", field="seed")


def _is_sampled(asked: TgiParameters) -> bool:
    """What changes the probabilities asks for it, too."""
    changes = (asked.temperature not in (None, 1), asked.top_k is not None, asked.top_p not in (None, 1))
    return bool(asked.do_sample) or any(changes)


def _generation(inputs: str, asked: TgiParameters, *, with_tokens: bool) -> GenerateRequest:
    temperature = 1.0 if asked.temperature is None else asked.temperature
    return GenerateRequest(
        prompt=inputs,
        truncate_prompt=asked.truncate,
        max_tokens=asked.max_new_tokens,
        temperature=temperature if _is_sampled(asked) else 0.0,
        top_k=asked.top_k or 0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        min_p=0.0,
        repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
        presence_penalty=0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        seed=asked.seed,
        stop=tuple(asked.stop or ()),
        include_stop=True,
        logprobs=asked.top_n_tokens or (0 if with_tokens else None),
        prompt_logprobs=0 if asked.decoder_input_details else None,
        grammar=None if asked.grammar is None else _grammar(asked.grammar),
    )


def _grammar(given: TgiGrammar) -> Grammar:
    match given.type, given.value:
        case "regex", str(pattern):
            return Grammar(GrammarKind.REGEX, pattern)
        case "json" | "json_object", str(text):
            return Grammar(GrammarKind.JSON_SCHEMA, text)
        case "json" | "json_object", dict(schema):
            return Grammar(GrammarKind.JSON_SCHEMA, _encoded(schema))
        case "json_schema", {"schema": dict(schema), **rest} if rest.keys() <= {"name", "strict"}:
            return Grammar(GrammarKind.JSON_SCHEMA, _encoded(schema))
    needed = {"regex": "a text", "json_schema": "an object with schema, and name or strict at most"}
    message = f"a grammar of type {given.type} needs as value {needed.get(given.type, 'a JSON schema')}"
    raise InvalidRequest(message, field="parameters.grammar.value")


def _encoded(schema: object) -> str:
    return json.dumps(schema, ensure_ascii=False)  # msgspec knows no numbers beyond 64 bits
